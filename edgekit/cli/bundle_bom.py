"""``bundle bom``: what is in a bundle, for those who have to know."""

from pathlib import Path
from typing import Annotated

import typer

from edgekit_runtime.cli.options import BundleArgument


def bom_command(
    bundle: BundleArgument,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write it there instead of to stdout."),
    ] = None,
) -> None:
    """Print a bundle's bill of materials: a CycloneDX 1.6 ML-BOM, as JSON.

    Base, adapters with their scores, the data sets that they were trained on, licences,
    every file by its SHA-256, and the packages that built it. It is made from the bundle
    alone: the same bundle gives the same document.

    Examples:
        edgekit bundle bom my-bundle
        edgekit bundle bom my-bundle -o my-bundle.cdx.json
    """
    import json

    from edgekit.bundling.bom import bill_of_materials
    from edgekit.errors import BuildError
    from edgekit_runtime.cli.console import write_json
    from edgekit_runtime.disk import replace_file

    told = bill_of_materials(bundle)
    if output is None:
        write_json(told)
        return
    try:
        replace_file(output, (json.dumps(told, indent=2, ensure_ascii=False) + "\n").encode())
    except OSError as err:
        raise BuildError(
            f"'{output}' cannot be written: {err.strerror}", hint="Give another -o."
        ) from err
