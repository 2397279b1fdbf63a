"""From a bundle recipe to the arguments of ``build``."""

from pathlib import Path
from typing import Any

from edgekit.bundling.adapters import AdapterSource
from edgekit.recipes import BundleRecipe


def arguments_of(recipe: BundleRecipe) -> dict[str, Any]:
    """Say a recipe in the words of :func:`edgekit.building.build.build`."""
    adapters = {}
    for name, source in recipe.adapters.items():
        paths = {target: Path(path) for target, path in source.path.items()}
        default = paths.pop("default", None)
        adapters[name] = AdapterSource(
            path=default or next(iter(paths.values())),
            by_target=paths,
            is_for_every_target=default is not None,
            prompt=source.prompt,
            defaults=source.defaults,
            license=source.license,
        )
    return {
        "name": recipe.name,
        "release": recipe.version,
        "base": recipe.base,
        "base_onnx": recipe.base_onnx,
        "targets": recipe.targets,
        "adapters": adapters,
        "output": recipe.output,
        "quantization": recipe.quantization,
        "max_nll_increase": recipe.parity.max_nll_increase,
    }
