"""`python -m llgbm`: the same as the `llgbm` command."""

import sys

from llgbm.cli import main

if __name__ == "__main__":
    sys.exit(main())
