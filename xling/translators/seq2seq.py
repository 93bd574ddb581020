"""translator=seq2seq: a translation model in Hugging Face format. NLLB, MADLAD, M2M100, and Marian a pair.

Documents go through sentence by sentence (`segments_of`), by beam search, in batches of a fixed number
of rows whose width depends on each row alone: a translation does not depend on what was translated beside it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from xling.config.common import Dtype, Positive
from xling.config.policies import LanguageModel
from xling.errors import ConfigError, DataError
from xling.grid.files import write_atomically
from xling.grid.stage import Context, Stage, canonical_json
from xling.jsonfiles import decode
from xling.models.checkpoints import TABLES, check_policy, folder_of, positions
from xling.models.hub import is_repository
from xling.models.hub import settings_of as config_of
from xling.models.text import EXACT, Ids, pad_right, pieces
from xling.models.weights import converted
from xling.planning import costs
from xling.planning.specs import base
from xling.planning.translations import Inputs, Needed, TranslateSpec, settings_of
from xling.translators import (
    SPACELESS,
    Direction,
    Spoken,
    Translate,
    TranslatorSettings,
    halved,
    joined,
    readable,
    segments_of,
)
from xling.translators.languages import Family, family_of, own_code, told

if TYPE_CHECKING:
    from xling.experiment import Experiment


class Settings(TranslatorSettings, frozen=True, kw_only=True, tag="seq2seq"):
    """An encoder-decoder translation model, by hub id or folder.

    `{source}` and `{target}` in `checkpoint` stand for the languages' codes: one model a pair, as Marian's are.
    """

    checkpoint: str
    revision: str | None = None  # of a hub id: commit, tag or branch
    dtype: Dtype = "float32"
    family: Family = "auto"  # how languages are named to the model; auto: by its config
    codes: tuple[str, ...] = ()  # "ours:theirs", where the model's code does not follow from the language's facts
    beams: Positive = 4  # of the beam search; 1: greedy
    max_tokens: Annotated[int, Meta(ge=8)] = 256  # of a segment (longer ones are halved) and its translation
    batch_size: Positive = 16  # segments read together; changes the floating-point bits, hence part of the key
    segments: Literal["sentences", "lines"] = "sentences"  # what is translated at once

    def checkpoints(self, directions: Sequence[Direction]) -> frozenset[str]:
        """One a pair of languages, as Marian's are."""
        if "{" not in self.checkpoint:
            return frozenset()
        return frozenset(checkpoint_of(self, a.code, b.code) for a, b in directions if a != b)


# --- planning -----------------------------------------------------------------------------------------------


def checkpoint_of(translator: Settings, source: str, target: str) -> str:
    """The checkpoint of a pair: `{source}` and `{target}` are the languages' codes."""
    own = {name: own_code(translator.codes, code) or code for name, code in (("source", source), ("target", target))}
    return translator.checkpoint.replace("{source}", own["source"]).replace("{target}", own["target"])


def check(translator: Settings, experiment: "Experiment", directions: Sequence[Direction]) -> None:
    """ConfigError for a checkpoint that is no translation model, or that does not know a language."""
    for source, target in directions:
        spoken = (Spoken(one.code, one.script) for one in (source, target))
        _check(translator, checkpoint_of(translator, source.code, target.code), *spoken)


@lru_cache(maxsize=1024)
def _check(translator: Settings, checkpoint: str, source: Spoken, target: Spoken) -> None:
    if not is_repository(checkpoint) and not (Path(checkpoint) / "config.json").is_file():
        raise ConfigError(
            f"translator.checkpoint={checkpoint} is no folder of a model in Hugging Face format (config.json is "
            "missing)."
            + (converted(Path(checkpoint)) or " Name a folder or a hub id (owner/name), or type translator=nllb_600m.")
        )
    try:
        check_policy(LanguageModel(checkpoint, revision=translator.revision), "translator")
    except ConfigError as error:
        raise ConfigError(str(error).replace("policy.", "translator.")) from error
    settings = config_of(checkpoint, translator.revision)
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
    folder = folder_of(checkpoint, translator.revision)
    tokenizer = None if folder is None else _tokenizer(folder)
    if tokenizer is None:
        return
    try:  # both languages are known to the tokenizer of a model that is on this machine
        family = family_of(translator.family, str(settings.get("model_type")), tokenizer)
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


def inputs(translator: Settings, needed: Needed) -> Inputs:
    """The model is a base stage; of `codes` the pair's own are in the key."""
    pair = needed.source.code, needed.target.code
    named = {code: own_code(translator.codes, code) for code in sorted(pair)}
    settings = settings_of(translator, "checkpoint", "revision", "dtype")  # they are the base stage's
    settings["codes"] = [f"{code}:{theirs}" for code, theirs in named.items() if theirs]
    model = LanguageModel(checkpoint_of(translator, *pair), revision=translator.revision, dtype=translator.dtype)
    lm = base(model, "translator.checkpoint", "translator")
    return Inputs(settings, {"lm": lm}, {"model": lm.key})  # the key names what is remembered of the model


def work(stage: Stage, tokens: int) -> Mapping[str, float]:
    """Floating-point operations: every token is read once, and written by a beam search."""
    model = costs.model_of(stage)
    if model is None:
        return {}
    beams = stage.spec["translator"]["beams"]
    return {"reading": model.forward(tokens, 0), "sampling": beams * model.forward(0, tokens)}


# --- the model ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    """A model that is ready to translate from one language into another."""

    model: Any
    tokenizer: Any
    settings: Settings
    before: Ids  # tokens before a segment, and after it
    after: Ids
    first: int | None  # the token that the translation has to begin with

    def fits(self, text: str) -> bool:
        """Whether a segment is not longer than what is translated at once."""
        [ids] = pieces(self.tokenizer, [text])
        return len(ids) + len(self.before) + len(self.after) <= self.settings.max_tokens

    def translate(self, texts: Sequence[str]) -> dict[str, str | None]:
        """Segments, each once, to their translations; None for one that the model does not come to an end with."""
        from xling.models.states import filled_batches

        distinct = list(dict.fromkeys(texts))
        ids_of = zip(distinct, pieces(self.tokenizer, distinct), strict=True)
        rows = {text: [*self.before, *ids, *self.after] for text, ids in ids_of}
        lengths = {text: len(ids) + 1 for text, ids in rows.items()}  # a column of padding at least
        found: dict[str, str | None] = {}
        for width, real, some in filled_batches(self.model, lengths, self._rows):
            said = self._generate([rows[text] for text in some], width)
            found |= dict(zip(real, said, strict=False))
        return found

    def _rows(self, width: int) -> int:
        """Segments of a width translated together: as many tokens as `batch_size` of the widest short ones at most."""
        return max(1, min(self.settings.batch_size, self.settings.batch_size * EXACT // width))

    def _generate(self, rows: Sequence[Ids], width: int) -> list[str | None]:
        import torch

        ids = torch.from_numpy(pad_right(rows, width, self.tokenizer.pad_token_id)).to(self.model.device)
        lengths = torch.tensor([len(row) for row in rows], device=self.model.device)
        mask = (torch.arange(width, device=self.model.device) < lengths[:, None]).long()
        forced = {} if self.first is None else {"forced_bos_token_id": self.first}
        with torch.inference_mode():
            out = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                num_beams=self.settings.beams,
                max_new_tokens=self.settings.max_tokens,
                do_sample=False,
                **forced,
            )
        return [self._text(row) for row in out[:, 1:].tolist()]  # the first is decoder_start

    def _text(self, ids: Ids) -> str | None:
        eos = self.tokenizer.eos_token_id
        if eos not in ids or ids.index(eos) + 1 >= self.settings.max_tokens:  # some models force an end there
            return None
        said = ids[: ids.index(eos)]
        if self.first is not None and said[:1] == [self.first]:  # which not every tokenizer takes for a special one
            said = said[1:]
        return str(self.tokenizer.decode(said, skip_special_tokens=True)).strip()


def load_model(folder: Path, settings: Settings, source: Spoken, target: Spoken) -> Model:
    """The model of a base stage's folder, told which languages it translates between.

    DataError for what is no encoder-decoder of a known family; ConfigError for a language that it does not know.
    """
    from xling.models.load import load_translator

    model, tokenizer = load_translator(folder)
    family = family_of(settings.family, model.config.model_type, tokenizer)
    before, after, first = told(family, tokenizer, settings.codes, source, target)
    return Model(model, tokenizer, settings, before, after, first)


# --- what was translated before -----------------------------------------------------------------------------

# By whichever stage of a root: a folder a model, its settings and a pair of languages. A file a block of texts rather
# than one a text, since there may be millions. Files are only ever added; a line that its checksum does not fit is as
# if it were not there, and the folder can be deleted. Two stages that run at once may translate a text twice, to the
# same.

# sha256 of a text, its translation (None: the model made nothing of it), and a checksum of both
Entry = tuple[str, str | None, str]


class Memory:
    """Translations on disk, by text; where each one stands is kept in memory, not the text itself."""

    def __init__(self, root: Path, identity: Mapping[str, Any]) -> None:
        self.folder = root / hashlib.sha256(canonical_json(dict(identity))).hexdigest()[:32]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._places: dict[str, tuple[Path, int]] = {}
        self._seen: set[str] = set()

    def refresh(self) -> None:
        """See what other stages have added."""
        for path in sorted(self.folder.glob("*.jsonl")):
            if path.name not in self._seen:
                self._seen.add(path.name)
                self._index(path)

    def get(self, text: str) -> tuple[bool, str | None]:
        """(whether it was translated, the translation)."""
        place = self._places.get(_name(text))
        if place is None:
            return False, None
        path, start = place
        try:
            with path.open("rb") as file:
                file.seek(start)
                return True, _entry(file.readline())[1]
        except (OSError, msgspec.DecodeError):  # deleted or damaged meanwhile
            return False, None

    def add(self, translations: Mapping[str, str | None]) -> None:
        """Keep some translations."""
        if not translations:
            return
        named = [(_name(text), said) for text, said in translations.items()]
        lines = [msgspec.json.encode((name, said, _checksum(name, said))) + b"\n" for name, said in named]
        content = b"".join(lines)
        path = self.folder / f"{hashlib.sha256(content).hexdigest()[:32]}.jsonl"
        write_atomically(path, content)
        self._seen.add(path.name)
        self._index(path)

    def _index(self, path: Path) -> None:
        start = 0
        with path.open("rb") as file:
            for line in file:
                with suppress(msgspec.DecodeError):  # a damaged line is as if it were not there
                    self._places.setdefault(_entry(line)[0], (path, start))
                start += len(line)


def _name(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _checksum(name: str, said: str | None) -> str:
    return hashlib.sha256(msgspec.json.encode((name, said))).hexdigest()[:16]


def _entry(line: bytes) -> Entry:
    """The entry on a line; DecodeError if it is damaged."""
    found: Entry = decode(line, type=Entry)
    if found[2] != _checksum(*found[:2]):
        raise msgspec.DecodeError("the checksum does not fit")
    return found


# --- the translate stage ------------------------------------------------------------------------------------


def translate(context: Context, spec: TranslateSpec, texts: Sequence[str]) -> Translate:
    """By the model of the `lm` parent, which is loaded once something has not been translated before."""
    settings = msgspec.convert({"checkpoint": "", **spec.translator}, Settings)
    made = {
        "model": context.spec["model"],
        "settings": spec.translator,
        "speakers": spec.speakers,
        "made by": _makers(),
        "source": msgspec.to_builtins(spec.source),
        "target": msgspec.to_builtins(spec.target),
    }
    memory = Memory((context.cache or context.scratch) / "translations", made)
    return Documents(context.parents["lm"], settings, spec.source, spec.target, spec.speakers, memory)


def _makers() -> dict[str, Any]:
    """Code, packages and device, which decide a model's translations too: remembered ones of others are not taken."""
    import torch

    from xling.planning import KINDS

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    packages = {name: version(name) for name in ("sentencex", "tokenizers", "torch", "transformers")}
    return {"stage": KINDS["translate"].version, "device": device, **packages}


@dataclass
class Documents:
    """A model that is loaded once something has not been translated before, and what has been."""

    folder: Path
    settings: Settings
    source: Spoken
    target: Spoken
    speakers: Sequence[str]
    memory: Memory
    model: Model | None = None
    asked: int = 0  # texts that the model has translated

    def __call__(self, texts: Sequence[str]) -> list[str | None]:
        self.memory.refresh()
        known = {text: self.memory.get(text) for text in dict.fromkeys(texts)}
        missing = [text for text, (there, _) in known.items() if not there]
        found = {text: said for text, (there, said) in known.items() if there}
        if missing:
            made = self._documents(missing)
            self.memory.add(made)
            found |= made
        return [found[text] for text in texts]

    def _documents(self, texts: Sequence[str]) -> dict[str, str | None]:
        if self.model is None:
            self.model = load_model(self.folder, self.settings, self.source, self.target)
        model, self.asked = self.model, self.asked + len(texts)
        between = "" if self.target.script in SPACELESS else " "
        split = {
            text: segments_of(text, self.source.code, self.settings.segments, self.speakers, between) for text in texts
        }
        distinct = {one.text for segments in split.values() for one in segments if readable(one.text)}
        parts = {one: halved(one, model.fits) for one in sorted(distinct)}
        said = model.translate([part for some in parts.values() for part in some if readable(part)])
        whole: dict[str, str | None] = {}
        for text, segments in split.items():
            found = [self._segment(one.text, parts, said, between) for one in segments]
            whole[text] = joined(segments, [one for one in found if one is not None]) if None not in found else None
        return whole

    def _segment(self, text: str, parts: dict[str, list[str]], said: dict[str, str | None], between: str) -> str | None:
        """A segment's translation; None if the model makes nothing of it; as it is where it has no letters."""
        if text not in parts:
            return text
        found = [said.get(part, part) for part in parts[text]]
        return between.join(one for one in found if one is not None) if all(found) else None
