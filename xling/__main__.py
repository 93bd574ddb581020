"""`python -m xling` is `xling`."""

import sys

from xling.cli import main

if __name__ == "__main__":
    sys.exit(main())
