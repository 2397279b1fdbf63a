"""Push a bundle to a model repository of the Hugging Face Hub."""

from pathlib import Path

from edgekit.bundling.push import PushReport
from edgekit.errors import BuildError
from edgekit_runtime.hub import HubReference, need_library, told_as_ours
from edgekit_runtime.manifest import MANIFEST_NAME, Manifest
from edgekit_runtime.verification import verify_bundle

# A version's own folders; what else is in the repository, its card for one, stays.
_OURS = ["targets/**", "weights/**", "adapters/**", "tokenizer/**", "licenses/**", "reports/**"]


def push_to_hub(bundle: Path, reference: HubReference) -> PushReport:
    """Make a bundle the content of a branch, in one commit; the library sends what is new.

    Args:
        bundle: The bundle's directory.
        reference: The repository, made if it is not there, and a branch.

    Raises:
        BuildError: If the bundle is not as it was built.
        RegistryError: If the Hub cannot be reached or refuses.
    """
    need_library()
    from huggingface_hub import HfApi

    if problems := verify_bundle(bundle):
        raise BuildError(
            f"bundle '{bundle}' is not as it was built", problems=problems, hint="Build it again."
        )
    manifest = Manifest.from_bytes((bundle / MANIFEST_NAME).read_bytes())
    api = HfApi()
    with told_as_ours(reference):
        api.create_repo(reference.repository, exist_ok=True)
        if reference.revision is not None:
            api.create_branch(reference.repository, branch=reference.revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=reference.repository,
            folder_path=bundle,
            revision=reference.revision,
            commit_message=f"{manifest.name} {manifest.version}",
            delete_patterns=_OURS,
        )
    return PushReport(
        reference=str(reference),
        pinned=str(reference.at(commit.oid)),
        digest=manifest.digest,
        pushed_bytes=None,
        skipped_bytes=None,
    )
