"""Which files hold a task's data: a file, a folder, or a glob, with `{lang}` and `{split}` in names.

    for path in paths_of("data/{lang}/{split}.csv"):
        told_by("data/{lang}/{split}.csv", path)    # {"lang": "de", "split": "train"}

Names alone decide; but what stands beside the tables that `save_to_disk` writes is told by their state.json.
"""

import fnmatch
import glob
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from xling.errors import ConfigError, did_you_mean, expanded

Identity = tuple[tuple[str, int, int], ...]
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")
TOLD = ("lang", "split")  # what a pattern of paths has in braces
HELD = re.compile(r"\{(\w+)\}")
ABOUT = ("dataset_info.json", "state.json", "dataset_dict.json")  # what `save_to_disk` writes beside its tables
# How files and columns call the splits.
SPLITS = {"train": "train", "training": "train", "validation": "validation", "valid": "validation",
          "val": "validation", "dev": "validation", "test": "test"}  # fmt: skip
_SPLIT_WORD = re.compile(rf"(?:^|[/_.-])({'|'.join(SPLITS)})(?=[/_.-])")


def paths_of(path: str, setting: str = "task.path") -> list[Path]:
    """The files that a setting names: itself, all tables below a folder, or what a glob matches; sorted.

    `{lang}` and `{split}` stand for a part of a name (`told_by`). ConfigError if there is none, with what to type.
    """
    if path in ("", "???"):
        raise ConfigError(
            f"This {setting.partition('.')[0]} needs data. Name a file, a folder or a glob with {setting}=PATH."
        )
    place = expanded(path)
    if place.is_file():
        return [place]
    if unknown := sorted({name for name in HELD.findall(path) if name not in TOLD} if not place.exists() else ()):
        raise ConfigError(f"{setting}={path}: {{{unknown[0]}}} stands for nothing; {{lang}} and {{split}} do.")
    found = place.rglob("*") if place.is_dir() else map(Path, glob.glob(HELD.sub("*", str(place)), recursive=True))
    held = not place.is_dir() and HELD.search(path)
    named = sorted(file for file in found if file.is_file() and is_table(file) and (not held or told_by(path, file)))
    if not named:
        reason = "has no table in it" if place.is_dir() else "is not a file, nor a folder or glob with tables"
        near = did_you_mean(place.name, (p.name for p in place.parent.glob("*"))) if place.parent.is_dir() else ""
        near = near.replace(" '", f" '{Path(path).parent}/", 1) if Path(path).name != path else near
        raise ConfigError(
            f"{setting}={path} {reason} ({', '.join(SUFFIXES)}, also .gz).{near} "
            f"Name a file, a folder or a glob with {setting}=PATH."
        )
    return named


def told_by(pattern: str, file: Path) -> dict[str, str]:
    """What a file's name says where a pattern has `{lang}` or `{split}`; the same everywhere if one stands twice."""
    parts = re.split(r"(\{\w+\}|\*\*/|\*\*|\*|\?|\[[^/\]]+\])", str(expanded(pattern)))
    wild, seen, written = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}, set[str](), ""
    for part in parts:
        if HELD.fullmatch(part):
            written += f"(?P={part[1:-1]})" if part in seen else f"(?P<{part[1:-1]}>[^/]+?)"
            seen.add(part)
        elif part.startswith("[") and len(part) > 1:
            written += fnmatch.translate(part)[:-2]  # but the end of the whole
        else:
            written += wild.get(part, re.escape(part))
    found = re.fullmatch(written, str(file))
    return found.groupdict() if found else {}


def is_table(path: Path) -> bool:
    """By its name, with or without .gz; of a folder that `save_to_disk` wrote the data alone, not what is about it."""
    if not plain_name(path).endswith(SUFFIXES) or path.name.startswith("."):
        return False
    if path.suffix == ".arrow":
        return _of_its_state(path)
    return path.name not in ABOUT or not any(path.parent.glob("**/*.arrow"))


def _of_its_state(path: Path) -> bool:
    """Whether an Arrow file is the data beside a state.json: `map` and `filter` leave their caches there."""
    try:
        state = msgspec.json.decode((path.parent / "state.json").read_bytes(), type=dict[str, Any])
        names = {file["filename"] for file in state["_data_files"]}
    except (OSError, ValueError, TypeError, KeyError, RecursionError, msgspec.DecodeError):
        return True
    return path.name in names


def split_of(name: str) -> str:
    """train, validation or test, by a word of a path, as in data/val-0.parquet; empty if it has none."""
    match = _SPLIT_WORD.search(name.lower())
    return SPLITS[match[1]] if match else ""


def files_in(folder: Path) -> str:
    """A folder's files, as part of a sentence."""
    return ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"


def plain_name(path: Path) -> str:
    """A file's name in small letters, as it is unpacked."""
    return path.name.lower().removesuffix(".gz")


def identity(paths: Iterable[Path]) -> Identity:
    """(path, size, modification time) of each: what caches of their content go by."""
    return tuple((str(path), (status := path.stat()).st_size, status.st_mtime_ns) for path in paths)
