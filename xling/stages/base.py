"""base: the language model before any fine-tuning, as a folder that later stages load."""

import shutil
from pathlib import Path

import msgspec
from msgspec import Struct

from xling.errors import StageError
from xling.grid.stage import Context
from xling.models.recipe import BASE_FOLDER, folder_digest
from xling.stages.files import read_json, write_json


class BaseSpec(Struct, frozen=True):
    """`checkpoint` as in the policy's config; `digest` of the packaged weights or of the pretraining corpus."""

    checkpoint: str
    digest: str


def run(context: Context) -> None:
    """Copy the packaged base, make it again, or point to a local folder (not copied: it may be large)."""
    spec = msgspec.convert(context.spec, BaseSpec)
    if spec.checkpoint == "packaged":
        if folder_digest(BASE_FOLDER) != spec.digest:
            raise StageError(f"The packaged base in {BASE_FOLDER} changed after planning. Run the command again.")
        shutil.copytree(BASE_FOLDER, context.out, dirs_exist_ok=True)
    elif spec.checkpoint == "pretrain":
        from xling.models.pretrain import make_base

        make_base(context.out, context.progress)
    else:
        write_json(context.out / "pointer.json", {"path": spec.checkpoint})


def model_folder(stage_folder: Path) -> Path:
    """Where the model of a base (or fine-tuned) stage really lies."""
    pointer = stage_folder / "pointer.json"
    return Path(read_json(pointer)["path"]) if pointer.exists() else stage_folder
