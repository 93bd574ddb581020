"""What a wheel has beside the package's own files: conf/ as xling/conf, and the commit that it was built from.

hatchling calls it (pyproject.toml). It visits a folder once and so would skip all but one of the links in conf/
(source_lang, target_lang -> lang): here each is a folder of its own. An editable installation reads the checkout.
"""

import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Hook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        root, below = Path(self.root), "xling/" if self.target_name == "wheel" else ""
        included = build_data["force_include"]
        for path in sorted((root / "conf").iterdir()):
            included[str(path)] = f"{below}conf/{path.name}"
        if commit := _commit(root):
            self._written = tempfile.TemporaryDirectory()
            path = Path(self._written.name) / "commit.txt"
            path.write_text(f"{commit}\n", encoding="utf-8")
            included[str(path)] = "xling/commit.txt"


def _commit(root: Path) -> str | None:
    """The commit, with `+` if the tree has changes; None outside a checkout."""

    def git(*arguments: str) -> str:
        return subprocess.check_output(["git", *arguments], cwd=root, stderr=subprocess.DEVNULL, text=True)

    try:
        top, sha = git("rev-parse", "--show-toplevel", "HEAD").split("\n")[:2]
        changes = git("status", "--porcelain", "--", "xling")
    except (OSError, subprocess.CalledProcessError, ValueError):
        return None
    return sha + ("+" if changes else "") if Path(top) == root.resolve() else None
