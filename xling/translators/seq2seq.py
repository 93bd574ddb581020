"""translator=seq2seq: a translation model in Hugging Face format. NLLB, MADLAD, M2M100, and Marian a pair.

Documents go through sentence by sentence (xling/translators/segments.py), by beam search, in batches of a fixed number
of rows whose width depends on each row alone: a translation does not depend on what was translated beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from xling.config.translators import Seq2Seq
from xling.models.load import load_translator
from xling.models.states import batches, fill
from xling.models.text import Ids, pad_right, padded_length, pieces
from xling.translators.families import family_of, told
from xling.translators.memory import Memory
from xling.translators.segments import SPACELESS, halved, joined, readable, segments_of
from xling.translators.translator import Spoken, Translate

WIDTHS = 8  # segments are padded to multiples of it


@dataclass(frozen=True)
class Model:
    """A model that is ready to translate from one language into another."""

    model: Any
    tokenizer: Any
    settings: Seq2Seq
    before: Ids  # tokens before a segment, and after it
    after: Ids
    first: int | None  # the token that the translation has to begin with

    def fits(self, text: str) -> bool:
        """Whether a segment is not longer than what is translated at once."""
        [ids] = pieces(self.tokenizer, [text])
        return len(ids) + len(self.before) + len(self.after) <= self.settings.max_tokens

    def translate(self, texts: Sequence[str]) -> dict[str, str | None]:
        """Segments, each once, to their translations; None for one that the model does not come to an end with."""
        distinct = list(dict.fromkeys(texts))
        rows = {text: [*self.before, *ids, *self.after] for text, ids in self._pieces(distinct)}
        widths: dict[int, list[str]] = {}
        for text, ids in rows.items():
            widths.setdefault(padded_length(len(ids) + 1, WIDTHS), []).append(text)  # a column of padding at least
        found: dict[str, str | None] = {}
        for width, some in sorted(widths.items()):
            for real in batches(some, self.settings.batch_size):
                said = self._generate([rows[text] for text in fill(real, self.settings.batch_size)], width)
                found |= dict(zip(real, said, strict=False))
        return found

    def _pieces(self, texts: Sequence[str]) -> Any:
        return zip(texts, pieces(self.tokenizer, texts), strict=True)

    @torch.inference_mode()
    def _generate(self, rows: Sequence[Ids], width: int) -> list[str | None]:
        ids = torch.from_numpy(pad_right(rows, width, self.tokenizer.pad_token_id)).to(self.model.device)
        lengths = torch.tensor([len(row) for row in rows], device=self.model.device)
        mask = (torch.arange(width, device=self.model.device) < lengths[:, None]).long()
        forced = {} if self.first is None else {"forced_bos_token_id": self.first}
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


def load_model(folder: Path, settings: Seq2Seq, source: Spoken, target: Spoken) -> Model:
    """The model of a base stage's folder, told which languages it translates between.

    DataError for what is no encoder-decoder of a known family; ConfigError for a language that it does not know.
    """
    model, tokenizer = load_translator(folder)
    family = family_of(settings, model.config.model_type, tokenizer)
    before, after, first = told(family, tokenizer, settings.codes, source, target)
    return Model(model, tokenizer, settings, before, after, first)


# --- documents ----------------------------------------------------------------------------------------------


@dataclass
class Translator:
    """A model that is loaded once something has not been translated before, and what has been."""

    folder: Path
    settings: Seq2Seq
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


def seq2seq_translator(
    folder: Path,
    settings: Seq2Seq,
    source: Spoken,
    target: Spoken,
    speakers: Sequence[str],
    memory: Memory,
) -> Translate:
    """The translator of a pair of languages, by the model of a base stage's folder."""
    return Translator(folder, settings, source, target, speakers, memory)
