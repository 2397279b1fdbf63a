"""Who is scored, by the options of a person: a bundle, or a base in torch."""

from contextlib import AbstractContextManager
from pathlib import Path

from edgekit.evaluating.subjects import Subject, bundle_subject, torch_subject
from edgekit.method_recipes import target_of
from edgekit.targets import load_target


def open_subject(
    bundle: Path | None,
    base: str | None,
    adapter: str | None,
    target: str | None,
    weights: str | None,
) -> AbstractContextManager[Subject]:
    """Open a bundle, or a base with its own weights (None) or those of ``target:NAME``."""
    if bundle is not None:
        return bundle_subject(bundle, adapter, target=target)
    name = target_of(weights)
    profile = load_target(name) if name else None
    return torch_subject(base or "", Path(adapter) if adapter else None, profile=profile)


def subject_name(bundle: Path | None, base: str | None, weights: str | None) -> str:
    """Who it is, for a report."""
    if bundle is not None:
        return f"bundle {bundle}"
    return f"torch {base}, weights of {weights}" if weights else f"torch {base}"
