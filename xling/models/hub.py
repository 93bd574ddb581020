"""Which model a checkpoint names: a local folder or a repository of the Hugging Face hub at one commit. No torch here.

While planning a repository is asked for its commit, so that a moving revision does not move under a grid; without a
network the copy in the hub's cache is taken. The base stage then downloads that commit.
"""

import re
from pathlib import Path
from typing import Any

from xling.errors import ConfigError
from xling.jsonfiles import read_json

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
COMMIT = re.compile(r"[0-9a-f]{40}")
UNRESOLVED = "?"  # a revision that a dry run did not ask the hub for; no name that git allows
SECONDS = 10  # to wait for the hub while planning
FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.py"]  # no pickles, no other frameworks' weights


class HubUnreachable(ConfigError):
    """Neither the hub nor a cached copy can say what a revision is."""


def is_repository(checkpoint: str) -> bool:
    """Whether it has the form owner/name, and is no folder."""
    return REPOSITORY.fullmatch(checkpoint) is not None and not Path(checkpoint).exists()


def commit_of(repository: str, revision: str | None, setting: str = "policy.checkpoint") -> str:
    """The commit (40 hexadecimal digits) that a revision of a repository means now; UNRESOLVED stays what it is.

    Raises ConfigError if there is no such repository or revision, HubUnreachable if neither the hub nor a cached copy
    is there.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if revision == UNRESOLVED or (COMMIT.fullmatch(revision or "") and cached(repository, revision)):
        return str(revision)
    try:
        found = HfApi().model_info(repository, revision=revision, timeout=SECONDS)
    except GatedRepoError as error:
        raise ConfigError(
            f"{setting}={repository} asks for its licence to be accepted. Accept it on the hub and set "
            f"HF_TOKEN, or type {setting}=FOLDER."
        ) from error
    except RevisionNotFoundError as error:
        raise ConfigError(f"{revision} is no revision of {setting}={repository}. Use one it has.") from error
    except RepositoryNotFoundError as error:
        raise ConfigError(
            f"{setting}={repository} is neither a folder nor a repository of the hub. "
            f"Type {setting}=FOLDER, or owner/name as the hub has it."
        ) from error
    except Exception as error:  # no network: of whatever kind the client's transport raises
        return _cached_commit(repository, revision, setting, error)
    if not any(file.rfilename.endswith(".safetensors") for file in found.siblings or []):
        raise ConfigError(
            f"{repository} has no safetensors at revision {revision or 'main'}, and pickles are not read. Name a "
            f"revision that has them as {_revision_of(setting)} (refs/pr/N, as the hub's conversion bot makes them)."
        )
    return str(found.sha)


def _revision_of(setting: str) -> str:
    """The setting of a checkpoint's revision: policy.checkpoint -> policy.revision."""
    group, _, leaf = setting.rpartition(".")
    return f"{group}.{leaf}_revision" if leaf in ("policy", "reference") else f"{group}.revision"


def settings_of(checkpoint: str, revision: str | None) -> dict[str, Any]:
    """A checkpoint's config.json, from its folder, the cache or the hub; empty if it cannot be had."""
    from huggingface_hub import hf_hub_download

    path = Path(checkpoint) / "config.json"
    if revision == UNRESOLVED:
        return {}
    try:
        if is_repository(checkpoint):
            path = Path(hf_hub_download(checkpoint, "config.json", revision=revision))
        settings: dict[str, Any] = read_json(path)
    except Exception:  # no such file, or no network: of whatever kind the client's transport raises
        return {}
    return settings


def _cached_commit(repository: str, revision: str | None, setting: str, error: Exception) -> str:
    folder = cached(repository, revision)
    if folder is None:
        named = repository if revision is None else f"{repository} --revision {revision}"
        raise HubUnreachable(
            f"{setting}={repository} is no folder, the hub cannot be reached ({type(error).__name__}), and "
            f"this machine has no copy of it. Where there is a network type `hf download {named} --local-dir FOLDER`, "
            f"then here {setting}=FOLDER."
        ) from error
    return folder.name


def cached(repository: str, revision: str | None) -> Path | None:
    """The snapshot of a revision in the hub's cache; its name is the commit."""
    from huggingface_hub import snapshot_download

    if revision == UNRESOLVED:
        return None
    try:
        folder = Path(snapshot_download(repository, revision=revision, local_files_only=True, allow_patterns=FILES))
    except OSError:
        return None
    return folder if COMMIT.fullmatch(folder.name) and (folder / "config.json").exists() else None


def download(repository: str, commit: str) -> Path:
    """The snapshot's folder, from the cache or from the hub; safetensors, tokenizer and settings alone."""
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(repository, revision=commit, allow_patterns=FILES))
