"""Whose code may run: what the spec names (policy.remote_code, rm_backbone.remote_code), at the commit that it has.

A checkpoint can bring Python of its own: its settings then say `auto_map`. It runs only if the spec of the `base` stage
names its repository. What a results folder says beside its spec (load.json) can be written by anyone who can write
there, and is believed only as far as the specs of the result and of what it was made from say the same. No torch here.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from xling.errors import DataError
from xling.grid.records import Sheet, read
from xling.jsonfiles import decode
from xling.models.hub import download

SETTINGS = "*.json"  # config.json, tokenizer_config.json and others may name code


def check_code(folder: Path, allowed: str | None) -> None:
    """DataError for a checkpoint that wants code of another repository than the one that may run, or kernels of any."""
    if kernels := sorted(set(_kernels(read_settings(folder / "config.json")))):
        raise DataError(
            f"config.json in {folder} asks for kernels of {', '.join(kernels)}, which would be downloaded and run. "
            "Take attn_implementation and experts_implementation out of it; policy.attention says what is wanted."
        )
    if allowed is None:
        return  # none runs: what has no class of transformers cannot be read at all
    if others := origins(folder) - {allowed}:
        raise DataError(
            f"The model in {folder} runs code of {', '.join(sorted(others))}, and policy.remote_code={allowed}. "
            "Name that repository outright if you trust it, or use another model."
        )


def origins(folder: Path) -> set[str]:
    """Repositories, other than the checkpoint's own, whose code its settings name."""
    found: set[str] = set()
    for path in sorted(folder.glob(SETTINGS)):
        if path.stat().st_size > 10_000_000:  # a tokenizer's pieces
            continue
        names = _named(read_settings(path))
        found |= {name.partition("--")[0] for name in names if "--" in name}
    return found


def _named(value: Any, inside: bool = False) -> Iterator[str]:
    """Every text below an `auto_map` or `custom_pipelines` of settings, at whatever depth."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _named(one, inside or key in ("auto_map", "custom_pipelines"))
    elif isinstance(value, list):
        for one in value:
            yield from _named(one, inside)
    elif inside and isinstance(value, str):
        yield value


def read_settings(path: Path) -> Any:
    """A file of JSON; None for one that cannot be read, which whoever needs it will say."""
    try:
        return decode(path.read_bytes())
    except (OSError, msgspec.DecodeError):
        return None


def _kernels(value: Any) -> Iterator[str]:
    """Repositories of kernels (`owner/name`) that settings name, at whatever depth."""
    if isinstance(value, dict):
        for key, one in value.items():
            if key.endswith(("attn_implementation", "experts_implementation")):
                yield from (text for text in (one.values() if isinstance(one, dict) else [one]) if "/" in str(text))
            yield from _kernels(one)


def code_of(folder: Path) -> dict[str, str]:
    """Name -> sha256 of a folder's Python files: what runs if its code may run."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*.py"))}


def trusted(stage_folder: Path, asked: str, where: Path) -> str:
    """The commit of the code that may run for a result whose load.json asks for it; empty for a local folder's.

    `where` the weights lie, and the code beside them. DataError unless the spec that the result was made from, or that
    of a base which it comes from, names that repository, and the code is what that base has. A folder without a spec
    is one that this process is making.
    """
    if not (stage_folder / "spec.json").is_file():
        return ""
    for base, sheet in _bases(stage_folder, Path(stage_folder).name):
        if sheet.spec.get("remote_code") == asked:
            return _same_code(base, sheet, where)
    raise DataError(
        f"load.json in {stage_folder} asks to run the code of {asked}, and the spec that the result was made from "
        "names no such repository: somebody changed it. Nothing was run. Delete that result, or give another root=PATH."
    )


def _bases(folder: Path, key: str) -> Iterator[tuple[Path, Sheet]]:
    """The base stages that a result comes from, itself included, each with the spec that its key stands for."""
    try:
        sheet = read(Sheet, str(folder / "spec.json"))
    except (OSError, msgspec.DecodeError):
        return
    if sheet.key() != key:
        return
    if sheet.kind == "base":
        yield folder, sheet
    for up in sheet.parents.values():
        yield from _bases(folder.parent.parent / up.kind / up.key, up.key)


def _same_code(base: Path, sheet: Sheet, where: Path) -> str:
    """The base's commit, if the code in `where` is the base's."""
    commit, checkpoint = str(sheet.spec.get("commit") or ""), str(sheet.spec["checkpoint"])
    theirs = code_of(download(checkpoint, commit)) if commit else sheet.spec.get("code") or {}
    if not code_of(where).items() <= theirs.items() or (origins(where) and not commit):
        raise DataError(
            f"The code in {where} is not that of {checkpoint}, which may run by the spec of base/{base.name[:12]}. "
            "Nothing was run. Delete that result, or plan again with the code that you trust."
        )
    return commit
