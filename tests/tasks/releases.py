"""Tiny releases in their authors' own layouts, traps and all: what a checkout has, not what it should have."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from own_files import Row, jsonl, parquet

CONFIG = "{'should_shuffle': True, 'should_replace_ner': {'enabled': True, 'number': 5}}"


def multi_summeval(root: Path, langs: Sequence[str] = ("DE", "EN"), documents: int = 3) -> Path:
    """resulting_data/LANG with score.csv and a file a text; folders of other things beside it."""
    for lang in langs:
        folder = root / "resulting_data" / lang
        for kind in ("gold", "pred_BERT", "pred_PG"):
            (folder / kind).mkdir(parents=True)
        rows = ["id,model,focus,coverage"]
        for d in range(documents):
            name = str(7 * d)
            (folder / "gold" / name).write_text(f"{lang} reference {d} ,\u00a0as tokenised\r\n", encoding="utf-8")
            for model, focus in (("BERT", 0.123456), ("PG", -1.5)):
                (folder / f"pred_{model}" / name).write_text(f"{lang}  {model} {d} .\n", encoding="utf-8")
                rows.append(f"{name},{model},{focus + d},{0.25 - d}")
        (folder / "score.csv").write_bytes(("\r\n".join(rows) + "\r\n").encode())
    (root / "resulting_data" / "RU_latin").mkdir()  # a converted copy
    (root / "resulting_data" / "RU_latin" / "score.csv").write_text("id,ROUGE\n1,0.3\n")
    return root


def beyond_ngrams(root: Path, rows: dict[str, Sequence[dict[str, Any]]]) -> Path:
    """data/CRITERION/LANGUAGE.csv, from `criterion/language` -> rows with the columns that matter."""
    for name, found in rows.items():
        criterion, language = name.split("/")
        scores = ("coherence_gemini", "coherence_gpt") if criterion == "coherence" else ("gemini_grade", "gpt_grade")
        columns = ["", "inner_index", *scores, "label", "text", "gemini_corrupted_summary", "gpt_corrupted_summary"]
        columns += ["config", "orig_gpt_prediction", "orig_gemini_prediction"]
        path = root / "data" / criterion / f"{language}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            for number, row in enumerate(found):
                own = {"": number, "inner_index": row["index"], "label": "a headline", "config": CONFIG}
                own |= {"text": row.get("text", f'article {row["index"]}, "quoted"\nin two lines')}
                for system, score in zip(("gemini", "gpt"), scores, strict=True):
                    own |= {score: row[system], f"{system}_corrupted_summary": row.get(f"{system}_text", f"{system}\n")}
                    own |= {f"orig_{system}_prediction": row.get("orig", "")}
                writer.writerow(own)
    return root


def message(name: str, parent: str | None, text: str, **changed: Any) -> dict[str, Any]:
    """A message as Open Assistant exports it."""
    role = "prompter" if parent is None else "assistant"
    own = {"message_id": name, "parent_id": parent, "user_id": "u", "text": text, "role": role, "lang": "en"}
    own |= {"review_count": 3, "review_result": True, "deleted": False, "rank": None, "synthetic": False}
    return {**own, "message_tree_id": "t1", "tree_state": "ready_for_export", "labels": {"name": ["spam"]}, **changed}


def rated(langs: Sequence[str], documents: int = 20) -> list[dict[str, Any]]:
    """JSONL rows of rated summaries: the response that repeats its document is the better one."""
    rows = []
    for lang in langs:
        for d in range(documents):
            document = f"{lang} alpha{d} beta{d % 3} gamma{d % 5} delta"
            for system, response in (("a", document if d % 2 else "nothing"), ("b", "nothing" if d % 2 else document)):
                good = response == document
                ratings = {"focus": good + d / 100, "coverage": good - d / 100, "rating": float(good)}
                common = {"source": "x", "lang": lang, "id": f"{lang.upper()}-{d}", "system": system}
                rows.append({**common, "document": document, "response": f"{response} {d}", **ratings})
    return rows


SUBSETS = ("alpacaeval-easy", "mt-bench-med", "llmbar-natural", "donotanswer", "math-prm", "hep-python")


def bench_pairs(lang: str, each: int = 4) -> list[Row]:
    """`each` pairs a subset, the ids the same in every language."""
    return [
        {
            "id": number * 10 + place,
            "language": lang,
            "prompt": f"{lang} prompt {subset} {number}",
            "chosen": f"good answer {number} {lang}",
            "rejected": f"bad {number}",
            "chosen_model": "one",
            "rejected_model": "two",
            "source": subset,
        }
        for place, subset in enumerate(SUBSETS)
        for number in range(each)
    ]


def benchmark(folder: Path, *names: str, **changed: Any) -> Path:
    """A local copy of M-RewardBench; the last row of each language has chosen == rejected."""
    for name in names:
        rows = [row | changed for row in bench_pairs(name)]
        rows[-1] |= {"rejected": rows[-1]["chosen"]}
        parquet(folder / name / "test-00000-of-00001.parquet", rows)
        jsonl(folder / name / "raw.json", [b"not to be read"])
    return folder
