"""The entry of each process of a stage that has several; see ranks.py."""

import os
import sys
from pathlib import Path

from xling.run.slurm.ranks import end, main

if __name__ == "__main__":
    code = main(Path(sys.argv[1]), os.environ)
    if code:
        sys.exit(code)
    end()
