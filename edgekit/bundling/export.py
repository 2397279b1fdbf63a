"""A bundle's target in the layouts of other runtimes."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from edgekit.bundling.write import staged_bundle, write_json
from edgekit.errors import BuildError
from edgekit_runtime import Bundle
from edgekit_runtime.contract import SocketContract
from edgekit_runtime.errors import AdapterError, nearest
from edgekit_runtime.manifest import AdapterRecord, TargetRecord

Format = Literal["genai", "foundry", "gguf"]
FORMATS: tuple[Format, ...] = ("genai", "foundry", "gguf")
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
_CONTENT = "{Content}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportReport:
    """What was exported.

    Attributes:
        files: Paths in the output with their sizes in bytes.
    """

    output: Path
    format: Format
    target: str
    adapters: tuple[str, ...]
    files: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self) | {"output": str(self.output), "adapters": list(self.adapters)}


def export(
    path: Path,
    output: Path,
    *,
    format: Format = "genai",
    target: str | None = None,
    adapters: Sequence[str] | None = None,
) -> ExportReport:
    """Write one target of a bundle for another runtime; every digest is checked before.

    ``genai`` is a model folder that stock onnxruntime-genai opens, with the adapters beside it;
    ``foundry`` is one with the file that Foundry Local asks for; ``gguf`` holds the adapters alone,
    as llama.cpp takes them for the same base.

    Args:
        path: The bundle.
        output: A directory that is not there yet.
        format: One of :data:`FORMATS`.
        target: Whose graphs and adapters; ``cpu`` or the bundle's only one by default.
        adapters: Their names; all that the target has by default.

    Raises:
        BundleError: If the bundle is not as it was built.
        BuildError: If the target cannot be exported so, or the output exists.
        AdapterError: If an adapter is unknown, or not there for the target.
    """
    with Bundle.open(path, verify="full", cache_dir=None) as bundle:
        name, record = _target(bundle, target)
        chosen = _adapters(bundle, name, adapters)
        with staged_bundle(output, overwrite=False) as staging:
            if format == "gguf":
                _write_gguf(bundle, record, chosen, name, staging)
            else:
                _write_folder(bundle, record, staging)
                _copy_adapters(bundle, chosen, name, staging / "adapters")
                shutil.copytree(bundle.path / "licenses", staging / "licenses")
            if format == "foundry":
                write_json(staging / "inference_model.json", _foundry(bundle))
            sizes = {
                file.relative_to(staging).as_posix(): file.stat().st_size
                for file in sorted(staging.rglob("*"))
                if file.is_file()
            }
    return ExportReport(
        output=output, format=format, target=name, adapters=tuple(chosen), files=sizes
    )


def _target(bundle: Bundle, asked: str | None) -> tuple[str, TargetRecord]:
    targets = bundle.manifest.targets
    name = asked or ("cpu" if "cpu" in targets else next(iter(targets)))
    if name not in targets:
        raise BuildError(f"the bundle has no target '{name}'; {nearest(name, targets)}")
    if asked is None and "cpu" not in targets and len(targets) > 1:
        raise BuildError(
            f"the bundle has several targets: {', '.join(targets)}", hint="Say --target."
        )
    if targets[name].adapter_mechanism != "ort_inputs":
        raise BuildError(
            f"target '{name}' has graphs of fixed shape, which other runtimes do not drive",
            hint="Use edgekit-runtime for it, or export another target.",
        )
    return name, targets[name]


def _adapters(bundle: Bundle, target: str, asked: Sequence[str] | None) -> dict[str, AdapterRecord]:
    known = bundle.manifest.adapters
    if asked is None:
        return {name: record for name, record in known.items() if target in record.files}
    problems = [f"{name}: {nearest(name, known)}" for name in asked if name not in known]
    problems += [
        f"{name}: was not built for target {target!r}"
        for name in asked
        if name in known and target not in known[name].files
    ]
    if problems:
        raise AdapterError("these adapters cannot be exported", problems=problems)
    return {name: known[name] for name in asked}


def _write_folder(bundle: Bundle, record: TargetRecord, folder: Path) -> None:
    """The graph with sockets, its weights, configuration and tokenizer, flat."""
    source = bundle.path / record.path
    graphs = {Path(graph).name for graph in record.graphs.values()}
    kept = Path(record.graphs["model"]).name
    sockets = Path(record.sockets).name
    for file in sorted(source.iterdir()):
        if file.name == kept or file.name not in graphs | {sockets, "genai_config.json"}:
            shutil.copyfile(file, folder / file.name)
    for weights in record.weights:
        shutil.copyfile(bundle.path / weights, folder / Path(weights).name)
    config = json.loads((source / "genai_config.json").read_text(encoding="utf-8"))
    config["model"]["decoder"]["session_options"].pop(_WEIGHTS_FOLDER, None)
    write_json(folder / "genai_config.json", config)


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
