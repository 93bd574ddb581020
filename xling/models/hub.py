"""Which model a checkpoint names, found without loading it: a repository of the hub at one commit, a folder, the base.

While planning a repository is asked for its commit, so that a moving revision does not move under a grid; without a
network the copy in the hub's cache is taken. The base stage then downloads that commit. A local folder is known by the
digest of its content, the packaged micro base by its recipe. A checkpoint may bring code, which runs only if the spec
names its repository. No torch here.
"""

import hashlib
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from xling.digests import file_digest
from xling.errors import ConfigError, DataError
from xling.grid.records import Sheet, read
from xling.jsonfiles import decode, read_json

# --- the hub ------------------------------------------------------------------------------------------------

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
COMMIT = re.compile(r"[0-9a-f]{40}")
UNRESOLVED = "?"  # a revision that a dry run did not ask the hub for; no name that git allows
SECONDS = 10  # to wait for the hub while planning
FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.py"]  # no pickles, no other frameworks' weights

TOKENIZER = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]


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
    files = [file.rfilename for file in found.siblings or []]
    if not any(name.endswith(".safetensors") for name in files):
        if quantised := [name for name in files if name.endswith(".gguf")]:
            raise ConfigError(
                f"{setting}={repository} has GGUF files alone. Name the model that they were made from, or type "
                f"`hf download {repository} {quantised[0]} --local-dir .`, `xling convert {quantised[0]} FOLDER` and "
                f"{setting}=FOLDER."
            )
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
    path = Path(checkpoint) / "config.json"
    if revision == UNRESOLVED:
        return {}
    try:
        if is_repository(checkpoint):
            from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

            if cached(checkpoint, revision) is None:  # a download tries for half a minute, and says so each time
                get_hf_file_metadata(hf_hub_url(checkpoint, "config.json", revision=revision), timeout=SECONDS)
            path = Path(hf_hub_download(checkpoint, "config.json", revision=revision))
        settings: dict[str, Any] = read_json(path)
    except Exception:  # no such file, or no network: of whatever kind the client's transport raises
        return {}
    return settings


def tokenizer_folder(checkpoint: str, commit: str) -> Path | None:
    """Where a checkpoint's tokenizer lies, downloaded by itself where need be; None if it cannot be had."""
    if not is_repository(checkpoint):
        return Path(checkpoint)
    if commit == UNRESOLVED:
        return None
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(checkpoint, revision=commit, allow_patterns=TOKENIZER))
    except Exception:  # no network: of whatever kind the client's transport raises
        return None


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


class Surprise(Struct, frozen=True, forbid_unknown_fields=True):
    """The second stage of pretraining, in which states come to tell how surprising each word was (pretrain.py)."""

    layers: int = 2  # new ones, on top of those of the first stage
    steps: int = 700
    learning_rate: float = 7e-4
    weight: float = 0.5  # of its loss beside that of the next word
    noisy: float = 0.6  # share of texts with words exchanged
    rate: float = 0.08  # share of their tokens
    most: float = 8.0  # nats: a greater surprise counts as this one


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
    surprise: Surprise | None = None  # None: one stage, as of the packaged base


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
    return hashlib.sha256(msgspec.json.encode(written(recipe)) + corpus_digest(recipe.seed).encode()).hexdigest()


def written(recipe: Recipe) -> dict[str, Any]:
    """A recipe as it is recorded: what it does not have is not there, so that new stages leave old digests alone."""
    return {name: value for name, value in msgspec.to_builtins(recipe).items() if value is not None}


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


# --- whose code may run: what the spec names (policy.remote_code, rm_backbone.remote_code), at its commit ---

# A checkpoint can bring Python of its own: its settings then say `auto_map`. It runs only if the spec of the `base`
# stage names its repository. What a results folder says beside its spec (load.json) can be written by anyone who can
# write there, and is believed only as far as the specs of the result and of what it was made from say the same.

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
