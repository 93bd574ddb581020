"""Which model a checkpoint names, found without loading it: a repository of the hub at one commit, a folder, the base.

While planning a repository is asked for its commit, so that a moving revision does not move under a grid; without a
network the copy in the hub's cache is taken. The base stage then downloads that commit. A local folder is known by the
digest of its content, the packaged micro base by its recipe. No torch here.
"""

import hashlib
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from xling.digests import file_digest
from xling.errors import ConfigError
from xling.jsonfiles import read_json

# --- the hub ------------------------------------------------------------------------------------------------

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


# --- digests of folders, and the micro base's recipe --------------------------------------------------------

# Of a checkpoint's folder what transformers may read: weights, settings, tokenizer, code. And what others leave there.
READ = (".json", ".safetensors", ".model", ".txt", ".jinja", ".py", ".spm", ".codes", ".vocab", ".bpe", ".tiktoken")
LEFT_THERE = re.compile(
    r"(readme|licen[sc]e|notice|changelog|citation|requirements|use_policy|training_args|trainer_state|trainer_log"
    r"|(all|train|eval|test|predict)_results|optimizer|scheduler|rng_state|zero_to_fp32|dataset_infos?|wandb)\b.*"
    r"|(done|spec|load|sft|reward|base)\.json",  # the last: a result of ours
    re.IGNORECASE,
)
BASE_FOLDER = Path(__file__).parent / "micro_base"  # the weights that ship


class Recipe(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that determines the micro base, apart from library versions."""

    vocab_size: int = 4096
    hidden_size: int = 128
    intermediate_size: int = 384
    layers: int = 4
    heads: int = 4
    max_positions: int = 512
    steps: int = 10_000
    tokens_per_batch: int = 1536
    row_length: int = 192
    first_line_weight: float = 0.1
    learning_rate: float = 1e-3
    lessons: int = 12_000  # texts of plain copying that come first
    seed: int = 0


@lru_cache(maxsize=8)
def corpus_digest(seed: int = 0) -> str:
    """sha256 over the first texts of the pretraining corpus: changes when the world, its words or CLDR change."""
    from xling.tasks.micro.writing import pretraining_texts

    digest = hashlib.sha256()
    for text in pretraining_texts(seed, 2000):
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()


def recipe_digest(recipe: Recipe | None = None) -> str:
    """sha256 of recipe and corpus."""
    recipe = recipe or Recipe()
    return hashlib.sha256(msgspec.json.encode(recipe) + corpus_digest(recipe.seed).encode()).hexdigest()


@lru_cache(maxsize=64)
def folder_digest(folder: Path) -> str:
    """sha256 over the names and contents of a folder's files, in name order."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(bytes.fromhex(file_digest(path)))
    return digest.hexdigest()


def checkpoint_digest(folder: Path) -> str:
    """sha256 over what of a folder in Hugging Face format decides the model: wherever it lies, whatever lies beside it.

    A card, a licence, states of optimizers, checkpoints in folders below and hidden files decide nothing.
    """
    templates = sorted((folder / "additional_chat_templates").glob("*.jinja"))
    found = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in READ and path.is_file()]
    named = [path for path in found if not (path.name.startswith(".") or LEFT_THERE.fullmatch(path.name))]
    digest = hashlib.sha256()
    for path in [*named, *templates]:
        digest.update(f"{path.relative_to(folder).as_posix()}\0{file_digest(path)}\n".encode())
    return digest.hexdigest()
