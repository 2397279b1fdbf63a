"""A bundle's targets in the layouts of other runtimes."""

import json
import shutil
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from edgekit.bundling.ort_package import write_folder, write_package
from edgekit.bundling.write import staged_bundle, write_json
from edgekit.errors import BuildError
from edgekit_runtime import Bundle
from edgekit_runtime.contract import SocketContract
from edgekit_runtime.errors import AdapterError, nearest
from edgekit_runtime.manifest import AdapterRecord, TargetRecord

Format = Literal["genai", "foundry", "ortpackage", "gguf"]
FORMATS: tuple[Format, ...] = ("genai", "foundry", "ortpackage", "gguf")
_CONTENT = "{Content}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportReport:
    """What was exported.

    Attributes:
        targets: One of them, or several in a package.
        left_out: Targets of the bundle that a package cannot hold.
        files: Paths in the output with their sizes in bytes.
    """

    output: Path
    format: Format
    targets: tuple[str, ...]
    left_out: tuple[str, ...]
    adapters: tuple[str, ...]
    files: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self) | {"output": str(self.output)}


def export(
    path: Path,
    output: Path,
    *,
    format: Format = "genai",
    target: str | None = None,
    adapters: Sequence[str] | None = None,
) -> ExportReport:
    """Write a bundle's target for another runtime; every digest is checked before.

    ``genai`` is a model folder that stock onnxruntime-genai opens, with the adapters beside it;
    ``foundry`` is one with the file that Foundry Local asks for; ``ortpackage`` is ONNX Runtime's
    model package of all targets; ``gguf`` holds the adapters alone, as llama.cpp takes them for the
    same base.

    Args:
        path: The bundle.
        output: A directory that is not there yet.
        format: One of :data:`FORMATS`.
        target: Whose graphs and adapters; by default ``cpu`` or the bundle's only one, of a
            package every target that other runtimes can drive.
        adapters: Their names; all that the targets have by default.

    Raises:
        BundleError: If the bundle is not as it was built.
        BuildError: If the target cannot be exported so, or the output exists.
        AdapterError: If an adapter is unknown, or not there for the target.
    """
    with Bundle.open(path, verify="full", cache_dir=None) as bundle:
        targets = _targets(bundle, target, is_package=format == "ortpackage")
        chosen = _adapters(bundle, targets, adapters)
        name, record = next(iter(targets.items()))
        with staged_bundle(output, overwrite=False) as staging:
            if format == "gguf":
                _write_gguf(bundle, record, chosen, name, staging)
            elif format == "ortpackage":
                write_package(bundle, targets, chosen, staging)
            else:
                write_folder(bundle, record, staging)
                for weights in record.weights:
                    shutil.copyfile(bundle.path / weights, staging / Path(weights).name)
                _copy_adapters(bundle, chosen, name, staging / "adapters")
            if format != "gguf":
                shutil.copytree(bundle.path / "licenses", staging / "licenses")
            if format == "foundry":
                write_json(staging / "inference_model.json", _foundry(bundle))
            sizes = {
                file.relative_to(staging).as_posix(): file.stat().st_size
                for file in sorted(staging.rglob("*"))
                if file.is_file()
            }
        is_whole = format == "ortpackage" and target is None
        left_out = [name for name in bundle.manifest.targets if is_whole and name not in targets]
    return ExportReport(
        output=output,
        format=format,
        targets=tuple(targets),
        left_out=tuple(left_out),
        adapters=tuple(chosen),
        files=sizes,
    )


def _targets(bundle: Bundle, asked: str | None, *, is_package: bool) -> dict[str, TargetRecord]:
    """What to export: the target asked for, or what the format takes by default."""
    known = bundle.manifest.targets
    fit = {name: record for name, record in known.items() if _is_driven_elsewhere(record)}
    if is_package and asked is None and fit:
        return fit
    name = asked or ("cpu" if "cpu" in known else next(iter(known)))
    if name not in known:
        raise BuildError(f"the bundle has no target '{name}'; {nearest(name, known)}")
    if asked is None and "cpu" not in known and len(known) > 1 and not is_package:
        raise BuildError(
            f"the bundle has several targets: {', '.join(known)}", hint="Say --target."
        )
    if name not in fit:
        raise BuildError(
            f"target '{name}' has graphs of fixed shape, which other runtimes do not drive",
            hint="Use edgekit-runtime for it, or export another target.",
        )
    return {name: known[name]}


def _is_driven_elsewhere(record: TargetRecord) -> bool:
    return record.adapter_mechanism == "ort_inputs"


def _adapters(
    bundle: Bundle, targets: Collection[str], asked: Sequence[str] | None
) -> dict[str, AdapterRecord]:
    known = bundle.manifest.adapters
    if asked is None:
        return {name: record for name, record in known.items() if record.files.keys() & targets}
    problems = [f"{name}: {nearest(name, known)}" for name in asked if name not in known]
    problems += [
        f"{name}: was not built for target {' or '.join(map(repr, targets))}"
        for name in asked
        if name in known and not known[name].files.keys() & targets
    ]
    if problems:
        raise AdapterError("these adapters cannot be exported", problems=problems)
    return {name: known[name] for name in asked}


def _copy_adapters(
    bundle: Bundle, chosen: dict[str, AdapterRecord], target: str, folder: Path
) -> None:
    for name, record in chosen.items():
        folder.mkdir(exist_ok=True)
        shutil.copyfile(bundle.path / record.files[target], folder / f"{name}.onnx_adapter")
        shutil.copyfile(bundle.path / record.card, folder / f"{name}.json")


def _foundry(bundle: Bundle) -> dict[str, Any]:
    """What Foundry Local reads beside a model: its name, and how a message is put.

    Source: Microsoft Learn, "Compile Hugging Face models to run on Foundry Local".
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bundle.path / bundle.manifest.tokenizer)
    if not tokenizer.chat_template:
        raise BuildError(
            "Foundry Local asks for a chat template, and the base has none",
            hint="Export with --format genai.",
        )
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": _CONTENT}], tokenize=False, add_generation_prompt=True
    )
    template = {"assistant": _CONTENT, "prompt": prompt}
    return {"Name": bundle.manifest.name, "PromptTemplate": template}


def _write_gguf(
    bundle: Bundle,
    record: TargetRecord,
    chosen: dict[str, AdapterRecord],
    target: str,
    folder: Path,
) -> None:
    from edgekit.adapters.gguf import write_gguf_adapter

    if not chosen:
        raise BuildError("the bundle has no adapter for this target", hint="Add one first.")
    problems: list[str] = []
    contract = SocketContract.from_dict(json.loads(bundle.read(record.sockets)), problems)
    heads = json.loads((bundle.path / record.path / "genai_config.json").read_bytes())["model"]
    for name, entry in chosen.items():
        write_gguf_adapter(
            (bundle.path / entry.files[target]).read_bytes(),
            contract,
            folder / f"{name}.gguf",
            name=name,
            architecture=bundle.manifest.base.architecture,
            n_heads=heads["decoder"]["num_attention_heads"],
            n_kv_heads=heads["decoder"]["num_key_value_heads"],
        )
