"""WikiLingua across languages: articles in one language with summaries in another, of task=seahorse.

WikiLingua (Ladhak et al., Findings of EMNLP 2020, arXiv 2010.03093) has how-to articles of 18 languages, aligned with
English ones section by section. GEM's older release, to which Seahorse's ids belong, has a folder a language, whose
rows hold an article and its English counterpart (fields as in datasets/gem/gem.py of huggingface/datasets):

    gem_id, source_aligned: {tr, en}, target_aligned: {tr, en}, source (tr), target (en), references (en)

So where one of the two languages is English, both texts stand in a row of the other's files; two others are joined by
their English article and summary. Files of the pair itself come before those: wikilingua/en_tr/train.parquet with
`source`, `target`, `source_language` and `target_language`, as GEM's newer release has them for all pairs, or
wikilingua/wiki_lingua_tr_en_v0/, whose name says it (of the older one, into English alone).

The original release (pickles of {url: {section: {document, summary, english_url, english_section_name}}}) is not read:
it has no ids that Seahorse's ratings could be joined by, no splits, and a pickle runs code when it is opened.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from xling.errors import ConfigError, DataError, expanded
from xling.tasks.defaults import hashed
from xling.tasks.seahorse_files import ALIGNED, Document, Settings, corpus_files, files_by_split
from xling.tasks.tables import Row, open_table, text_of

NAME = "wikilingua"
BRIDGE = "en"
Files = dict[str, list[Path]]  # split -> files
SAID = ("source_language", "target_language")  # en, or en_XX


def across(config: Settings, lang: str) -> str:
    """The language of a target's articles where it is another than that of their summaries, else nothing."""
    return config.document_lang if config.document_lang and config.document_lang != lang else ""


def files(config: Settings, lang: str) -> list[Files]:
    """Those of the pair; or of the language whose rows have both; or of both, to be joined. ConfigError without any."""
    articles = across(config, lang)
    if own := _pair_files(config, articles, lang):
        return [own]
    return [corpus_files(config, one, NAME) for one in (articles, lang) if one != BRIDGE]


def require(config: Settings, lang: str, split: str) -> None:
    """ConfigError unless there are files of the split."""
    for found in files(config, lang):
        if split not in found:
            raise ConfigError(
                f"task.articles={config.articles} has no {split} files of {NAME} for articles in "
                f"{across(config, lang)!r} with summaries in {lang!r}, only of {', '.join(sorted(found))}."
            )


def documents(config: Settings, lang: str, split: str) -> Iterator[Document]:
    """Articles in `task.document_lang` with summaries in `lang`, streamed; rows without both are left out."""
    articles, found = across(config, lang), files(config, lang)
    if own := _pair_files(config, articles, lang):
        yield from _of_pair(own.get(split, []), articles, lang)
    elif BRIDGE in (articles, lang):
        for gem_id, texts, summaries in _rows(found[0], split):
            yield from _whole(gem_id, texts.get(articles), summaries.get(lang))
    else:
        by_english: dict[bytes, str] = {}  # the first in alphabetical order, whatever that of the rows
        for _, texts, summaries in _rows(found[0], split):
            if text := texts.get(articles):
                key = _english(texts, summaries)
                by_english[key] = min(text, by_english.get(key, text))
        for gem_id, texts, summaries in _rows(found[1], split):
            if key := _english(texts, summaries):
                yield from _whole(gem_id, by_english.get(key), summaries.get(lang))


# --- inside -------------------------------------------------------------------------------------------------


def _pair_files(config: Settings, articles: str, lang: str) -> Files:
    root = expanded(config.articles or "") / NAME
    for name in (f"{articles}_{lang}", f"wiki_lingua_{articles}_{lang}", f"wiki_lingua_{articles}_{lang}_v0"):
        if (root / name).is_dir() and (found := files_by_split(root / name)):
            return found
    return {}


def _of_pair(paths: list[Path], articles: str, lang: str) -> Iterator[Document]:
    for path in paths:
        table = open_table(path, strict=False)
        table.require(("gem_id", "source", "target"))
        for _, row in table.good_rows(("gem_id", "source", "target", "references", *SAID)):
            said = [text_of(row.get(name)).split("_")[0].lower() for name in SAID]
            if all(one in ("", wanted) for one, wanted in zip(said, (articles, lang), strict=True)):
                references = row.get("references")
                reference = references[0] if isinstance(references, list) and references else ""
                yield from _whole(text_of(row["gem_id"]).strip(), row["source"], row["target"] or reference)


def _rows(found: Files, split: str) -> Iterator[tuple[str, dict[str, str], dict[str, str]]]:
    """(gem_id, texts by language, summaries by language) of the rows of files with both languages."""
    for path in found.get(split, []):
        table = open_table(path, strict=False)
        columns = [name for name in table.columns if name.partition("/")[0] in ALIGNED]
        if len({name.partition("/")[0] for name in columns}) < len(ALIGNED):
            raise DataError(
                f"{path} has no columns '{ALIGNED[0]}' and '{ALIGNED[1]}', which hold an article and its English "
                f"counterpart in GEM's older release. Name that, or put the pair's own files into {NAME}/en_tr and the "
                "like (docs/tasks.md)."
            )
        for _, row in table.good_rows(("gem_id", *columns)):
            texts, summaries = (_by_language(row, name) for name in ALIGNED)
            yield text_of(row.get("gem_id")).strip(), texts, summaries


def _by_language(row: Row, name: str) -> dict[str, str]:
    """{tr, en} of a field; columns `source_aligned/tr` and so on are how TensorFlow Datasets writes it to a table."""
    value = row.get(name)
    if isinstance(value, Mapping):
        return {str(lang): text_of(text).strip() for lang, text in value.items()}
    return {key.partition("/")[2]: text_of(text).strip() for key, text in row.items() if key.startswith(f"{name}/")}


def _english(texts: Mapping[str, str], summaries: Mapping[str, str]) -> bytes:
    """What rows of two languages are joined by; nothing where a row has no English counterpart."""
    text, summary = texts.get(BRIDGE, ""), summaries.get(BRIDGE, "")
    return hashed(text, summary) if text and summary else b""


def _whole(gem_id: str, text: object, summary: object) -> Iterator[Document]:
    document = Document(gem_id, text_of(text).strip(), text_of(summary).strip())
    if all(document):
        yield document
