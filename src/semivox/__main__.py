"""`python -m semivox` is the command line."""

import sys

from semivox.cli import main

if __name__ == "__main__":
    sys.exit(main())
