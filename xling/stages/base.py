"""base: the language model before any fine-tuning, as a folder that later stages load."""

import shutil

import msgspec
from msgspec import Struct

from xling.errors import StageError
from xling.grid.stage import Context
from xling.models.recipe import BASE_FOLDER, folder_digest


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
        from xling.models.load import Loading, write_loading

        write_loading(context.out, Loading(spec.checkpoint))
