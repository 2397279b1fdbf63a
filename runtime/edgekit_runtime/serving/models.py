"""The models that are served: the base, every adapter, and those that clients brought."""

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit_runtime.errors import nearest
from edgekit_runtime.serving.errors import ApiError, bad_request
from edgekit_runtime.serving.jobs import AUTO
from edgekit_runtime.serving.tools import ToolFormat

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Models:
    """Names to adapters. The base has the bundle's name, an adapter ``bundle:adapter``.

    Where requests can be routed, ``bundle:auto`` is one more model.

    Args:
        info: What the worker says of the bundle.
    """

    def __init__(self, info: Mapping[str, Any]) -> None:
        self.bundle: str = info["name"]
        self.version: str = info["version"]
        self.target: str = info["target"]
        self.context_length: int = info["context_length"]
        self.tool_format: ToolFormat | None = info["tool_format"]
        self.fingerprint = "fp_" + str(info["digest"]).removeprefix("sha256:")[:12]
        self._base: str = info["base"]
        self._created = int(time.time())
        self._adapters: dict[str, bool] = dict(info["adapters"])
        self._guests: dict[str, bool] = {}
        self._routed: list[str] | None = info["routed"]

    def names(self) -> list[str]:
        """Every model's full name, the base first, the one that picks an adapter last."""
        auto = [] if self._routed is None else [AUTO]
        return [self.bundle, *(self.full_name(name) for name in (*self._all(), *auto))]

    def full_name(self, adapter: str | None) -> str:
        """What a model is called."""
        return self.bundle if adapter is None else f"{self.bundle}:{adapter}"

    def is_auto(self, model: str) -> bool:
        """Whether a model's name leaves open which adapter answers."""
        is_named = model in (AUTO, self.full_name(AUTO)) and model != self.bundle
        return self._routed is not None and is_named

    def adapter_of(self, model: str) -> str | None:
        """The adapter that a model's name means; an adapter's own name will do too.

        Returns:
            None for the base, and where the adapter is left open.

        Raises:
            ApiError: If there is no such model.
        """
        if model == self.bundle or self.is_auto(model):
            return None
        adapter = model.removeprefix(f"{self.bundle}:")
        if adapter in self._all():
            return adapter
        message = f"there is no model {model!r}; {nearest(model, self.names())}"
        raise ApiError(404, message, code="model_not_found", param="model")

    def describe(self, model: str) -> dict[str, Any]:
        """A model as ``/v1/models`` shows it."""
        routes = {"routes_to": self._routed} if self.is_auto(model) else {}
        name = AUTO if routes else self.adapter_of(model)
        return {
            "id": self.full_name(name),
            "object": "model",
            "created": self._created,
            "owned_by": "edgekit",
            "root": name or self._base,
            "parent": None if name is None else self.bundle,
            "max_model_len": self.context_length,
            "single_turn": name is not None and self._all().get(name, False),
        } | routes

    def check_new(self, name: str) -> None:
        """Refuse a name for an adapter that a client brings.

        Raises:
            ApiError: If it is no name, or taken.
        """
        if not _NAME.fullmatch(name):
            problem = "lora_name: expected letters, digits, '.', '_' or '-', at most 64"
            raise bad_request("this is no name for an adapter", [problem])
        if name == self.bundle or name in self._all() or self.is_auto(name):
            raise bad_request("the adapter's name is taken", [f"lora_name: {name!r} is served"])

    def check_guest(self, name: str) -> None:
        """Refuse to unload what no client loaded.

        Raises:
            ApiError: If it is the bundle's own, or unknown.
        """
        if name in self._adapters:
            raise bad_request(
                "an adapter of the bundle stays", [f"lora_name: {name!r} is part of the bundle"]
            )
        if name not in self._guests:
            message = f"no adapter {name!r} was loaded; {nearest(name, self._guests)}"
            raise ApiError(404, message, code="model_not_found", param="lora_name")

    def add(self, name: str, *, is_single_turn: bool) -> None:
        """Serve an adapter that a client brought."""
        self._guests[name] = is_single_turn

    def remove(self, name: str) -> None:
        """Serve it no more."""
        del self._guests[name]

    def _all(self) -> dict[str, bool]:
        """Every adapter, and whether it reads only what the user said last."""
        return self._adapters | self._guests


def path_within(path: str, folder: Path) -> Path:
    """A path that a client names, if it lies in the folder that clients may load from.

    Raises:
        ApiError: If it does not.
    """
    try:
        found = (folder / path).resolve()
        is_within = found.is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):
        is_within = False
    if not is_within:
        raise bad_request(
            "adapters are loaded from one directory only",
            ["lora_path: expected a path in the directory of --allow-adapters-from"],
        )
    return found
