"""Sort the lines of a file by what an adapter says of each: a plain script.

    python sort_messages.py BUNDLE ADAPTER messages.txt

The adapter has to record its labels, as every one does that `edgekit train` made for a
classification.
"""

import sys
from collections import defaultdict
from pathlib import Path

from edgekit_runtime import Bundle, EdgekitRuntimeError


def main(bundle_path: str, adapter: str, file: str) -> None:
    """Print the lines under their labels, the label that most have first."""
    lines = [line for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip()]
    groups = defaultdict(list)
    with Bundle.open(bundle_path) as bundle, bundle.engine() as engine:
        for line in lines:
            groups[engine.classify(line, adapter=adapter).label].append(line)
    for label, members in sorted(groups.items(), key=lambda group: -len(group[1])):
        print(f"{label} ({len(members)})")
        for line in members:
            print(f"  {line}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except EdgekitRuntimeError as err:
        sys.exit(f"error: {err}")
