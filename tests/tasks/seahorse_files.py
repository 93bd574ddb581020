"""A small Seahorse, written as the originals are: TSVs of ratings, and corpora in the fields of their GEM release."""

import csv
from pathlib import Path
from typing import Any

from own_files import jsonl, parquet

COLUMNS = ["gem_id", "worker_lang", "summary", "model", *(f"question{k}" for k in range(1, 7))]
WORKER_LANG = {"en": "en-US", "es": "es-ES"}
NAMES = {"de": "german", "en": "english", "es": "spanish", "ru": "russian", "tr": "turkish", "vi": "vietnamese"}
SIZES = {"train": 14, "validation": 8, "test": 6}
WORDS = {
    "de": ("Der Zug nach Bonn war", "Minuten zu spät und alle warteten"),
    "en": ("The train to Leeds was", "minutes late and everybody waited"),
    "tr": ("Ankara treni", "dakika geç kaldı ve herkes bekledi"),
}

Cells = list[str]


def article(lang: str, dataset: str, split: str, number: int) -> str:
    a, b = WORDS[lang]
    return f"{a} {number} {b} ({dataset} {split}).\nEnde {number}."


def summary(lang: str, number: int, system: str) -> str:
    a, b = WORDS[lang]
    return f"{a} {number} {b}, {system}"


def gem_id(lang: str, dataset: str, split: str, number: int) -> str:
    if dataset == "wikilingua":  # as in the old GEM release
        return f"wiki_lingua_{NAMES[lang]}_{lang}-{'val' if split == 'validation' else split}-{number}"
    return {"xsum": "xsum", "xlsum": f"xlsum_{NAMES[lang]}", "mlsum": f"mlsum_{lang}"}[dataset] + f"-{split}-{number}"


def answers(good: bool) -> Cells:
    return ["Yes"] * 5 + ["Yes" if good else "No"]


def rated(lang: str, dataset: str, split: str, number: int, system: str, good: bool) -> Cells:
    cells = [gem_id(lang, dataset, split, number), WORKER_LANG.get(lang, lang), summary(lang, number, system), system]
    return [*cells, *answers(good)]


def plain_rows(langs: tuple[str, ...], corpora: dict[str, tuple[str, ...]]) -> dict[str, list[Cells]]:
    """Two systems on each of a few articles: train and validation of the corpora's validation split, test of test."""
    out: dict[str, list[Cells]] = {"train": [], "validation": [], "test": []}
    for lang in langs:
        for dataset in corpora[lang]:
            for split, of, numbers in (
                ("train", "validation", range(4)),
                ("validation", "validation", (4, 5)),
                ("test", "test", (0, 1)),
            ):
                for number in numbers:
                    out[split] += [rated(lang, dataset, of, number, "mt5_xl", number % 2 == 0)]
                    out[split] += [rated(lang, dataset, of, number, "reference", number % 2 == 1)]
    return out


def write_ratings(folder: Path, rows: dict[str, list[Cells]]) -> None:
    """As pandas writes a TSV: a field with a tab, quote or line end is quoted."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, found in rows.items():
        with (folder / f"{split}.tsv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="\t", lineterminator="\n")
            writer.writerows([COLUMNS, *found])


def documents(lang: str, dataset: str, split: str) -> list[dict[str, Any]]:
    """Rows in the fields of the corpus's GEM release."""
    rows = []
    for number in range(SIZES[split]):
        text, target = article(lang, dataset, split, number), summary(lang, number, "reference")
        row: dict[str, Any] = {"gem_id": gem_id(lang, dataset, split, number)}
        row["gem_parent_id"] = row["gem_id"]
        if dataset == "xsum":
            row |= {"xsum_id": str(number), "document": text, "target": target}
        elif dataset == "xlsum":
            row |= {"url": "u", "title": "t", "text": text, "target": target}
        elif dataset == "mlsum":
            row |= {"text": text, "topic": "t", "url": "u", "title": "t", "date": "d", "target": target}
        else:  # the target is English, whatever the language
            row |= {"source": text, "target": f"English of {number}"}
            row |= {"source_aligned": {"en": "English", lang: text}, "target_aligned": {"en": "English", lang: target}}
        rows.append(row | {"references": [] if split == "train" else [target]})
    return rows


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    (parquet if path.suffix == ".parquet" else jsonl)(path, rows)


def write_corpora(folder: Path, langs: tuple[str, ...], corpora: dict[str, tuple[str, ...]]) -> None:
    """Each corpus in another of the layouts that people have."""
    for lang in langs:
        for dataset in corpora[lang]:
            for split in SIZES:
                place = {
                    "xsum": folder / "xsum" / f"{split}-00000-of-00001.parquet",
                    "xlsum": folder / "xlsum" / NAMES[lang] / split / "0000.parquet",
                    "mlsum": folder / "mlsum" / lang / f"mlsum-{split}.jsonl",
                    "wikilingua": folder / "wikilingua" / f"wiki_lingua_{NAMES[lang]}_{lang}" / f"{split}.jsonl.gz",
                }[dataset]
                write_table(place, documents(lang, dataset, split))


def write_mirror(folder: Path, langs: tuple[str, ...], rows: dict[str, list[Cells]]) -> None:
    """The mirror with articles: a row a question, rows without an answer left out."""
    for split, found in rows.items():
        table = []
        for cells in found:
            one = dict(zip(COLUMNS, cells, strict=True))
            where = one["gem_id"].rsplit("-", 2)
            base = {name: one[name] for name in ("gem_id", "worker_lang", "model")}
            base |= {"article": f"Article {where[-1]} of {where[0]}", "summary": one["summary"]}
            table += [
                base | {"question": f"question{k}", "answer": one[f"question{k}"]}
                for k in range(1, 7)
                if one[f"question{k}"]
            ]
        write_table(folder / "data" / f"{split}-00000-of-00001.parquet", table)
