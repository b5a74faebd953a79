"""`python main.py`: the same as the `llgbm` command, from a checkout."""

import sys

from llgbm.cli import main

if __name__ == "__main__":
    sys.exit(main())
