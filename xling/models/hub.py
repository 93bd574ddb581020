"""Which model a checkpoint names: a local folder or a repository of the Hugging Face hub at one commit. No torch here.

While planning a repository is asked for its commit, so that a moving revision does not move under a grid; without a
network the copy in the hub's cache is taken. The base stage then downloads that commit.
"""

import re
from pathlib import Path

from xling.errors import ConfigError

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
COMMIT = re.compile(r"[0-9a-f]{40}")
SECONDS = 10  # to wait for the hub while planning
FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.py"]  # no pickles, no other frameworks' weights


def is_repository(checkpoint: str) -> bool:
    """Whether it has the form owner/name, and is no folder."""
    return REPOSITORY.fullmatch(checkpoint) is not None and not Path(checkpoint).exists()


def commit_of(repository: str, revision: str | None, setting: str = "policy.checkpoint") -> str:
    """The commit (40 hexadecimal digits) that a revision of a repository means now.

    Raises ConfigError if there is no such repository or revision, or if neither the hub nor a cached copy is there.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return str(HfApi().model_info(repository, revision=revision, timeout=SECONDS).sha)
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


def _cached_commit(repository: str, revision: str | None, setting: str, error: Exception) -> str:
    folder = cached(repository, revision)
    if folder is None:
        named = repository if revision is None else f"{repository} --revision {revision}"
        raise ConfigError(
            f"{setting}={repository} is no folder, the hub cannot be reached ({type(error).__name__}), and "
            f"this machine has no copy of it. Where there is a network type `hf download {named} --local-dir FOLDER`, "
            f"then here {setting}=FOLDER."
        ) from error
    return folder.name


def cached(repository: str, revision: str | None) -> Path | None:
    """The snapshot of a revision in the hub's cache; its name is the commit."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repository, revision=revision, local_files_only=True, allow_patterns=FILES))
    except OSError:
        return None
    return folder if COMMIT.fullmatch(folder.name) and (folder / "config.json").exists() else None


def download(repository: str, commit: str) -> Path:
    """The snapshot's folder, from the cache or from the hub; safetensors, tokenizer and settings alone."""
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(repository, revision=commit, allow_patterns=FILES))
