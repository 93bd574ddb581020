"""Fill a transfer matrix: every cell that the command line asks for, as one plan.

    python launch.py                                                # one cell, the defaults of conf/
    python launch.py source_lang=de,en,de+en target_lang='glob(*)'  # commas sweep, + pools two sources
    python launch.py sweeps=embedded dry_run=true                   # a named grid; show the plan only
    python launch.py --help

Exit code: 0 all cells done, 1 some cell failed, 2 refused before anything was run, 130 Ctrl-C.
"""

import sys

import hydra
from omegaconf import DictConfig

from xling.compose.command_line import run


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(_: DictConfig) -> None:
    """Hydra's entry. Never called itself: hydra.mode is MULTIRUN, hydra_plugins/ does the work."""


if __name__ == "__main__":
    sys.exit(run(main))
