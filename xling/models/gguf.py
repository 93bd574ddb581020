"""GGUF files, llama.cpp's format, made folders in Hugging Face format: `xling convert FILE.gguf FOLDER`.

Policies, reward models and judges are trained and read by transformers from folders. transformers can dequantise a GGUF
file, but knows a model that came out of one as quantised ever after; here it is written once, as weights like any
others. What quantisation has rounded stays rounded. No torch is imported with this module.
"""

import importlib.util
import shutil
from pathlib import Path
from typing import Any

from xling.errors import DataError, did_you_mean, install
from xling.grid.files import share

DTYPES = ("float32", "bfloat16", "float16")
MAGIC = b"GGUF"


def convert(file: Path, folder: Path, dtype: str = "float32") -> str:
    """Write the model and tokenizer of a GGUF file into a new folder; a sentence that says what was written.

    dtype: of the written weights; float32 keeps each dequantised value as it is. DataError for what is no GGUF file,
    has an architecture that transformers does not dequantise, or lacks weights, and for a folder that is there.
    """
    _check(file, folder, dtype)
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    from xling.models.checkpoints import check_folder

    disable_progress_bar()
    where: dict[str, Any] = {"pretrained_model_name_or_path": file.parent.absolute(), "gguf_file": file.name}
    try:
        config = AutoConfig.from_pretrained(**where, trust_remote_code=False)
        kind: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model, report = kind.from_pretrained(**where, dtype=dtype, output_loading_info=True, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(**where, trust_remote_code=False)
    except Exception as error:  # of whatever kind: of a part of many, a vocabulary of another kind, a cut file
        raise DataError(
            f"{file} cannot be converted by transformers ({type(error).__name__}: {error}). Use a checkpoint of the "
            "model in safetensors. A model in several files (`-00001-of-`) has to be joined first: llama.cpp's "
            "llama-gguf-split --merge."
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise DataError(f"{file} lacks weights of {type(model).__name__}: {', '.join(missing[:3])}. Download it again.")
    model.hf_quantizer, model.is_quantized = None, False  # else saving asks the quantiser, which cannot write
    del model.config.quantization_config
    scratch = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    model.save_pretrained(scratch)
    tokenizer.save_pretrained(scratch)
    share(str(scratch))  # safetensors writes private files
    check_folder(scratch, "policy")
    scratch.rename(folder)
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e9
    return (
        f"{folder}: {type(model).__name__}, {model.num_parameters() / 1e6:,.0f} million weights in {dtype}, {size:.1f} "
        f"GB, {len(tokenizer):,} tokens. Type policy.checkpoint={folder}."
    )


def _check(file: Path, folder: Path, dtype: str) -> None:
    if dtype not in DTYPES:
        raise DataError(f"--dtype {dtype} is none of {', '.join(DTYPES)}.{did_you_mean(dtype, DTYPES)}")
    if not file.is_file():
        raise DataError(f"{file} is no file. Type xling convert FILE.gguf FOLDER.")
    with file.open("rb") as opened:
        if opened.read(len(MAGIC)) != MAGIC:
            raise DataError(f"{file} is no GGUF file: it does not begin with {MAGIC.decode()}. Download it again.")
    if folder.exists():
        raise DataError(f"{folder} is there already. Name a new folder, or delete that one.")
    if not folder.absolute().parent.is_dir():
        raise DataError(f"{folder.absolute().parent}, in which {folder.name} is to be made, is no folder.")
    if importlib.util.find_spec("gguf") is None:
        raise DataError(f"Converting GGUF files needs the package gguf. Install it with {install('gguf')}.")
