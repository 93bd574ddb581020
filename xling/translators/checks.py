"""What a translation model must be, as far as can be told before anything runs. No torch."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from xling.config.common import Language
from xling.config.policies import LanguageModel
from xling.config.translators import Seq2Seq
from xling.errors import ConfigError, DataError
from xling.models.checkpoints import TABLES, check_policy, folder_of, positions
from xling.models.hub import is_repository, settings_of
from xling.translators.languages import own_code
from xling.translators.translator import Spoken

Direction = tuple[Language, Language]


def checkpoint_of(translator: Seq2Seq, source: str, target: str) -> str:
    """The checkpoint of a pair: `{source}` and `{target}` are the languages' codes."""
    own = {name: own_code(translator.codes, code) or code for name, code in (("source", source), ("target", target))}
    return translator.checkpoint.replace("{source}", own["source"]).replace("{target}", own["target"])


def check_model(translator: Seq2Seq, directions: Sequence[Direction]) -> None:
    """ConfigError for a checkpoint that is no translation model, or that does not know a language."""
    for source, target in directions:
        spoken = (Spoken(one.code, one.script) for one in (source, target))
        _check(translator, checkpoint_of(translator, source.code, target.code), *spoken)


@lru_cache(maxsize=1024)
def _check(translator: Seq2Seq, checkpoint: str, source: Spoken, target: Spoken) -> None:
    if not is_repository(checkpoint) and not (Path(checkpoint) / "config.json").is_file():
        raise ConfigError(
            f"translator.checkpoint={checkpoint} is no folder of a model in Hugging Face format (config.json is "
            "missing). Name a local folder or a hub id (owner/name), or type translator=nllb_600m."
        )
    try:
        check_policy(LanguageModel(checkpoint, revision=translator.revision), "translator")
    except ConfigError as error:
        raise ConfigError(str(error).replace("policy.", "translator.")) from error
    settings = settings_of(checkpoint, translator.revision)
    places = positions(settings)
    if settings.get("model_type") in TABLES and places is not None and translator.max_tokens > places:
        raise ConfigError(
            f"translator.checkpoint={checkpoint} is a {settings.get('model_type')} with {places} positions, and "
            f"translator.max_tokens={translator.max_tokens}. Type translator.max_tokens={places}."
        )
    if settings and not settings.get("is_encoder_decoder"):
        raise ConfigError(
            f"translator.checkpoint={checkpoint} is a {settings.get('model_type')}, which is no encoder-decoder. Use a "
            "translation model: NLLB, MADLAD, M2M100 or Marian."
        )
    if (folder := folder_of(checkpoint, translator.revision)) is not None:
        _check_languages(translator, folder, settings, source, target)


def _check_languages(
    translator: Seq2Seq, folder: Path, settings: dict[str, Any], source: Spoken, target: Spoken
) -> None:
    """Both languages are known to the tokenizer of a model that is on this machine."""
    from xling.translators.families import family_of, told

    tokenizer = _tokenizer(folder)
    if tokenizer is None:
        return
    try:
        family = family_of(translator, str(settings.get("model_type")), tokenizer)
    except DataError as error:
        raise ConfigError(f"translator.checkpoint={folder}: {error}") from error
    told(family, tokenizer, translator.codes, source, target)


@lru_cache(maxsize=8)
def _tokenizer(folder: Path) -> Any:
    """None for one that cannot be loaded here: the stage that loads the model says why."""
    try:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception:  # of whatever kind
        return None
