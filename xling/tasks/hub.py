"""Data sets of the hub as local files: streamed once through `datasets`, at one commit, into JSON lines.

    task.path=hf://datasets/OWNER/NAME@COMMIT             all of it
    task.path=hf://datasets/OWNER/NAME@COMMIT/SUBSET      one of its subsets (configurations)

They lie in `$XDG_CACHE_HOME/xling/hub/OWNER--NAME@COMMIT/SUBSET/SPLIT.jsonl`, and no network is needed from then on.
Subsets that are named after languages say the language of their rows, splits with the usual names the split. A branch
would change while a grid runs: a commit is asked for. Knows no torch.
"""

import os
import re
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

import msgspec

from xling.errors import ConfigError, did_you_mean, expanded, listed, shown
from xling.measures.language import is_code
from xling.tasks.paths import SPLITS, is_table

NAME = re.compile(r"(?:hf://(?:datasets/)?)([\w.-]+/[\w.-]+)(?:@([\w.-]+))?(?:/([\w.@+-]+))?")
BARE = re.compile(r"[\w.-]+/[\w.-]+(@[0-9a-f]{7,40})?")  # perhaps one, of which the beginning was left out
COMMIT = re.compile(r"[0-9a-f]{40}")
SECONDS = 10.0  # to wait for the hub
LOCALLY = (
    "Name files instead with task.path=PATH: hf download {repo} --repo-type dataset --revision {revision} --local-dir "
    "PATH fetches them where there is a network."
)


@lru_cache(maxsize=16)
def local(path: str) -> str:
    """The path as it is; of a data set of the hub the pattern of its files, which are fetched if they are not there."""
    if not path.startswith("hf://"):
        return path
    found = NAME.fullmatch(path)
    if found is None:
        raise ConfigError(
            f"task.path={path} names no data set of the hub. The form is hf://datasets/OWNER/NAME@COMMIT, with "
            "/SUBSET at its end for one of several."
        )
    repo, revision, subset = found[1], found[2] or "", found[3] or ""
    if not COMMIT.fullmatch(revision):
        raise ConfigError(
            f"task.path={path} names {f'the branch or tag {revision}' if revision else 'no commit'}, which another day "
            f"may be other data. Type task.path=hf://datasets/{repo}@{_commit(repo, revision or 'main')}"
            f"{subset and f'/{subset}'}."
        )
    folder = _cache() / f"{repo.replace('/', '--')}@{revision}"
    if not folder.is_dir():
        _commit(repo, revision)
        stream(repo, revision, folder)
    return pattern(folder, subset, path)


def hint(path: str) -> str:
    """What to type if a path that is not there was meant as a data set of the hub."""
    if not BARE.fullmatch(path) or is_table(Path(path)):
        return ""
    return f" A data set of the hub is task.path=hf://datasets/{path.partition('@')[0]}@COMMIT."


def pattern(folder: Path, subset: str, asked: str) -> str:
    """The pattern of a subset's files; of all, where subsets are languages. ConfigError if one must be named."""
    subsets = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if subset and subset not in subsets:
        raise ConfigError(f"task.path={asked}: it has the subsets {listed(subsets)}.{did_you_mean(subset, subsets)}")
    languages = len(subsets) > 1 and all(map(is_code, subsets))
    if not subset and len(subsets) > 1 and not languages:
        raise ConfigError(
            f"task.path={asked} has several subsets. Name one with task.path={asked}/{subsets[0]}; there are "
            f"{listed(subsets, 20)}."
        )
    of = subset or ("{lang}" if languages else subsets[0])
    files = [path.stem for one in ([subset] if subset else subsets) for path in (folder / one).glob("*.jsonl")]
    splits = len(set(files)) > 1 and all(name.lower() in SPLITS for name in files)
    return str(folder / of / ("{split}.jsonl" if splits else "*.jsonl"))


def stream(source: str, revision: str | None, folder: Path) -> None:
    """Write a data set, of the hub or of a local folder, row by row: SUBSET/SPLIT.jsonl. All of it, or nothing."""
    from datasets import get_dataset_config_names, load_dataset

    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder.parent))
    try:
        for subset in get_dataset_config_names(source, revision=revision):
            for split, rows in load_dataset(source, subset, revision=revision, streaming=True).items():
                path = unfinished / subset / f"{split}.jsonl"
                path.parent.mkdir(exist_ok=True)
                with path.open("wb") as file:
                    file.writelines(msgspec.json.encode(row, enc_hook=str) + b"\n" for row in rows)
        if not folder.is_dir():  # another process may have been faster
            unfinished.rename(folder)
    except Exception as error:  # the client, the readers of files and the disk raise errors of many libraries
        raise ConfigError(
            f"{source} cannot be read from the hub: {shown(error, 300)}. "
            + LOCALLY.format(repo=source, revision=revision)
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _commit(repo: str, revision: str) -> str:
    """The commit of a revision; ConfigError, at once, where the hub cannot be asked or has no such data set."""
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(repo, revision=revision, timeout=SECONDS).sha)
    except Exception as error:
        raise ConfigError(
            f"The data set {repo} (revision {revision}) cannot be had from the hub: {shown(error, 200)}. "
            + LOCALLY.format(repo=repo, revision=revision)
        ) from error


def _cache() -> Path:
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "xling" / "hub"
