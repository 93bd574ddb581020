"""To the hub, by its own client: a new repository of what was exported."""

import shlex
from pathlib import Path
from typing import Any

from xling.errors import ConfigError, XlingError, shown
from xling.models.hub import REPOSITORY

TOKEN = "Log in with `hf auth login`, or set HF_TOKEN to a token that may write"


def check_push(repository: str, kind: str) -> None:
    """ConfigError unless there is a token, and a name that is free; asked before anything is written."""
    from huggingface_hub import get_token

    if not REPOSITORY.fullmatch(repository):
        raise ConfigError(f"--push {shown(repository)} is no name of the hub. Type OWNER/NAME.")
    if not get_token():
        raise ConfigError(f"--push {repository} needs a token of the hub, and there is none. {TOKEN}.")
    if _asked(repository, lambda api: api.repo_exists(repository, repo_type=kind)):
        raise ConfigError(
            f"--push {repository}: there is a {kind} of that name already, and xling adds to none. Type another name."
        )


def push(folder: Path, repository: str, kind: str) -> str:
    """Make the repository (private: its owner opens it) and upload the folder; says where it is."""

    def upload(api: Any) -> str:
        where = api.create_repo(repository, repo_type=kind, private=True)
        api.upload_folder(repo_id=repository, repo_type=kind, folder_path=folder, commit_message="xling export")
        return str(where)

    try:
        return f"Pushed to {_asked(repository, upload)}, private until its owner opens it."
    except XlingError as error:
        again = shlex.join(["hf", "upload", repository, str(folder), "--repo-type", kind, "--private"])
        raise XlingError(f"{error} It is in '{folder}'. To send it again type: {again}") from error


def _asked(repository: str, question: Any) -> Any:
    """What the client answers; its failures in a sentence."""
    from huggingface_hub import HfApi

    try:
        return question(HfApi())
    except Exception as error:  # what the hub refused; no network: of whatever kind the client's transport raises
        said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        answer = getattr(error, "response", None)
        advice = f" {TOKEN}." if getattr(answer, "status_code", 0) in (401, 403) else ""
        what = "the hub cannot be asked" if answer is None else "the hub answers"
        raise XlingError(f"--push {repository}: {what}: {shown(said, 200)}.{advice}") from error
