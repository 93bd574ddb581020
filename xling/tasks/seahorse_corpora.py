"""The four corpora under Seahorse (XSum, XL-Sum, MLSum, WikiLingua) as local files in the fields of their GEM release.

    ARTICLES/DATASET/LANGUAGE/...SPLIT....parquet      also .jsonl, .json, .csv, .tsv, plain or .gz

DATASET is xsum, xlsum, mlsum or wikilingua; LANGUAGE a code or a name (de, german, wiki_lingua_german_de), and may be
left out for xsum; SPLIT (train, validation, test; val and dev are validation) stands in the name of the file or of its
folder: train/0000.parquet, mlsum-train-00000-of-00003.parquet. Files of GEM's challenge sets and samples are left out.

Fields: gem_id; document, text or source; target (or references). In the old GEM release of WikiLingua, to which
Seahorse's ids belong, `source` is in the language and `target` in English: the language's own texts stand in
source_aligned and target_aligned, which are taken where they are.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from xling.errors import ConfigError, DataError
from xling.tasks.tables import Row, Table, is_table, open_table, text_of

if TYPE_CHECKING:
    from xling.tasks.seahorse import Settings

# Table 1 of the paper: the corpora of each language.
CORPORA: dict[str, tuple[str, ...]] = {
    "de": ("mlsum", "wikilingua"),
    "en": ("xsum", "xlsum", "wikilingua"),
    "es": ("xlsum", "mlsum", "wikilingua"),
    "ru": ("xlsum", "wikilingua"),
    "tr": ("xlsum", "wikilingua"),
    "vi": ("xlsum", "wikilingua"),
}
ENGLISH_NAMES = {
    "de": "german",
    "en": "english",
    "es": "spanish",
    "ru": "russian",
    "tr": "turkish",
    "vi": "vietnamese",
}
SPLITS = {"train": "train", "validation": "validation", "val": "validation", "dev": "validation", "test": "test"}
SPLIT = re.compile(rf"(?:^|[/_.-])({'|'.join(SPLITS)})(?=[/_.-])")
LEFT_OUT = re.compile(r"challenge|sampled|partial-")  # the last: half of a large split, as the hub converts it
TEXTS = ("document", "text", "source", "article")
SUMMARIES = ("target", "summary")
ALIGNED = ("source_aligned", "target_aligned")


class Document(NamedTuple):
    """An article with its reference summary."""

    gem_id: str
    text: str
    summary: str


def corpora(config: "Settings", lang: str) -> tuple[str, ...]:
    """The corpora of a language that `task.datasets` asks for; ConfigError if there is none."""
    found = tuple(name for name in CORPORA.get(lang, ()) if name in config.datasets)
    if not found:
        raise ConfigError(
            f"task.datasets=[{','.join(config.datasets)}] has none of the corpora of {lang!r}: "
            f"{', '.join(CORPORA.get(lang, ())) or 'Seahorse has no such language'}."
        )
    return found


def files(config: "Settings", lang: str, dataset: str) -> dict[str, list[Path]]:
    """split -> files of a corpus in a language; ConfigError that says where it was looked for."""
    root = Path(config.articles or "").expanduser()
    if not root.is_dir():
        raise ConfigError(
            f"task.articles={config.articles} is no folder. Type task.articles=PATH, "
            "a folder of DATASET/LANGUAGE files (docs/tasks.md)."
        )
    names = _folder_names(dataset, lang)
    for folder in (root / dataset / name for name in names):
        found = _by_split(folder) if folder.is_dir() else {}
        if found:
            return found
    places = ", ".join(f"{dataset}/{name}".rstrip("/") for name in names[:3])
    raise ConfigError(
        f"task.articles={config.articles} has no files of {dataset} in {lang!r}; looked in {places} and the like. "
        f"Put them there, or leave the corpus out: task.datasets=[...] (docs/tasks.md)."
    )


def require(config: "Settings", lang: str, split: str) -> None:
    """ConfigError unless each corpus of the language has files of the split."""
    for dataset in corpora(config, lang):
        if split not in (found := files(config, lang, dataset)):
            raise ConfigError(
                f"task.articles={config.articles} has no {split} files of {dataset} in {lang!r}, only of "
                f"{', '.join(sorted(found))}. Put them beside those (docs/tasks.md)."
            )


def documents(
    config: "Settings", lang: str, dataset: str, splits: Collection[str], wanted: Collection[str] | None = None
) -> Iterator[Document]:
    """A corpus's documents, streamed; only those `wanted` by gem_id, if given. Rows without text are left out."""
    found = files(config, lang, dataset)
    for path in (path for split in splits for path in found.get(split, [])):
        table = open_table(path, strict=False)
        columns = _columns(table, lang)
        for _, row in table.good_rows((*columns, "references", "source_language", "target_language")):
            gem_id = text_of(row.get("gem_id")).strip()
            if gem_id and (wanted is None or gem_id in wanted) and _in_language(row, lang):
                text, summary = _text(row, columns[1], lang), _text(row, columns[2], lang)
                if text:
                    yield Document(gem_id, text, summary or _reference(row))


# --- inside -------------------------------------------------------------------------------------------------


def _folder_names(dataset: str, lang: str) -> tuple[str, ...]:
    name = ENGLISH_NAMES[lang]
    old = (f"wiki_lingua_{name}_{lang}",) if dataset == "wikilingua" else ()
    names = (lang, name, *old, f"{name}_{lang}", f"{dataset}_{lang}", f"{dataset}_{name}")
    alone = sum(dataset in found for found in CORPORA.values()) == 1
    return (*names, "default", dataset, "") if alone else names


def _by_split(folder: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix().lower()
        match = SPLIT.search(name)
        if match and path.is_file() and is_table(path) and not LEFT_OUT.search(name):
            found.setdefault(SPLITS[match[1]], []).append(path)
    for split, paths in found.items():
        kinds = sorted({path.name.removesuffix(".gz").rpartition(".")[2] for path in paths})
        if len(kinds) > 1:
            raise ConfigError(f"{folder} has its {split} files twice, as {' and '.join(kinds)}. Leave one of them.")
    return found


def _columns(table: Table, lang: str) -> tuple[str, str, str]:
    """Names of id, text and summary in a file."""
    found = table.columns
    if not found:
        return "gem_id", TEXTS[0], SUMMARIES[0]
    table.require(["gem_id"])
    source, target = ALIGNED
    text = next((name for name in (source, f"{source}/{lang}", *TEXTS) if name in found), None)
    summary = next((name for name in (target, f"{target}/{lang}", *SUMMARIES) if name in found), None)
    if text is None or summary is None:
        needed = TEXTS if text is None else SUMMARIES
        raise DataError(
            f"{table.path} has no column '{needed[0]}' (or {', '.join(needed[1:])}); it has {', '.join(found)}."
        )
    return "gem_id", text, summary


def _text(row: Row, column: str, lang: str) -> str:
    value = row.get(column)
    return text_of(value.get(lang) if isinstance(value, Mapping) else value).strip()


def _reference(row: Row) -> str:
    references = row.get("references")
    return text_of(references[0]).strip() if isinstance(references, list) and references else ""


def _in_language(row: Row, lang: str) -> bool:
    """Whether text and summary are in the language, where the row says so (the new GEM release of WikiLingua)."""
    said = (row.get("source_language"), row.get("target_language"))
    return all(text_of(one).split("_")[0].lower() in ("", lang) for one in said)
