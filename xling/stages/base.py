"""base: the language model before any fine-tuning, found, checked, and named to later stages by load.json."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec

from xling.errors import DataError, StageError
from xling.grid.stage import Context
from xling.jsonfiles import read_json
from xling.models.hub import BASE_FOLDER, checkpoint_digest, download, folder_digest
from xling.models.weights import chat_template, template_digest
from xling.results.specs import BaseSpec


def run(context: Context) -> None:
    """Copy the packaged base, make it again, or point to a folder (not copied: it may be large). Writes load.json."""
    spec = msgspec.convert(context.spec, BaseSpec)
    where = "."
    if spec.checkpoint == "packaged":
        if folder_digest(BASE_FOLDER) != spec.digest:
            raise StageError(f"The packaged base in {BASE_FOLDER} changed after planning. Run the command again.")
        shutil.copytree(BASE_FOLDER, context.out, dirs_exist_ok=True)
    elif spec.checkpoint == "pretrain":
        from xling.models.pretrain import make_base

        make_base(context.out, context.progress)
    else:
        where = str(_downloaded(spec) if spec.commit else Path(spec.checkpoint).absolute())
        if not spec.commit and checkpoint_digest(Path(where)) != spec.digest:
            raise DataError(f"The model in {where} has changed since the grid was planned. Run the same command again.")
    _check(context, spec, where)


def lost(folder: Path) -> str:
    """Why a stored base cannot be read any more: what it points to has moved, or is another model. Else nothing."""
    how = read_json(folder / "load.json") if (folder / "load.json").is_file() else {}
    where, digest = folder / how.get("folder", "."), how.get("digest")
    try:
        if not (where / "config.json").is_file() or not os.access(where / "config.json", os.R_OK):
            return f"its model is no longer in {where}"
        return f"another model is in {where}" if digest and checkpoint_digest(where) != digest else ""
    except OSError as error:
        return f"its model in {where} cannot be read ({error.strerror})"


def _downloaded(spec: BaseSpec) -> Path:
    try:
        return download(spec.checkpoint, spec.commit)
    except Exception as error:  # of whatever kind the client's transport raises
        raise StageError(
            f"{spec.checkpoint} at {spec.commit} cannot be downloaded ({type(error).__name__}: {error}). Download it "
            f"where there is a network, and name the folder in place of {spec.checkpoint}."
        ) from error


def _check(context: Context, spec: BaseSpec, where: str) -> None:
    """Write load.json, and see that a whole model of the kind we can read is there; its weights are not read."""
    from xling.models.load import Loading, check_base, check_twin, source, turn_ends, write_loading

    use = spec.use or "policy"
    local = "" if where == "." or spec.commit else spec.digest
    how = Loading(where, spec.dtype, spec.attention, spec.remote_code, spec.pad_token, digest=local)
    write_loading(context.out, how)
    try:
        check_base(context.out, use)
        if spec.checkpoint not in ("packaged", "pretrain"):  # which is our own
            check_twin(context.out, use)
        if spec.template:
            _check_template(source(context.out)[0], spec)
            write_loading(context.out, replace(how, ends=turn_ends(context.out, use)))
    except (ValueError, ImportError) as error:  # transformers' own refusals
        named = {"policy": "a language model", "translator": "a translator"}
        what = named.get(use, f"an rm_backbone={use}")
        raise DataError(f"The model {spec.checkpoint} cannot be used as {what}: {error}") from error


def _check_template(folder: Path, spec: BaseSpec) -> None:
    if template_digest(chat_template(folder)) != spec.template:
        raise DataError(f"The chat template in {folder} is another one than was planned with. Run the command again.")
