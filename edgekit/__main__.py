"""``python -m edgekit``: the command line, as ``torchrun -m`` starts it."""

import sys

from edgekit.cli import main

if __name__ == "__main__":
    sys.exit(main())
