"""Cross-fitted heads on recorded ratings: nothing leaks, signal is found, permuted labels lose it."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from xling.errors import ConfigError, DataError, StageError
from xling.models.ridge import in_order, read_rows, write_rows
from xling.rewards import REWARDS, Request, RewardSettings
from xling.rewards.bag_of_words import Settings as BagOfWords
from xling.rewards.heads import Fitting, blocks_of, score_rows, train_heads
from xling.rewards.sentence_encoder import Settings as SentenceEncoder
from xling.rewards.system import Settings as SystemIdentity
from xling.rewards.untrained import Settings as Untrained
from xling.stages.score import rated_responses, write_agreement, write_notes, write_recorded
from xling.tasks import files
from xling.tasks.files import Settings as Files

Row = dict[str, Any]
FOLDS = 4
GOOD = {"de": "gut", "tr": "iyi"}


def planted(lang: str, documents: int = 40) -> list[Row]:
    """Two systems a document; the response with the good word is rated higher, whichever system has it."""
    draw = random.Random(lang)
    rows = []
    for d in range(documents):
        best = draw.choice("ab")
        for system in "ab":
            word = GOOD[lang] if system == best else "xx"
            rows.append(
                {
                    "id": str(d),
                    "lang": lang,
                    "document": f"{lang} {d} {draw.random()}",
                    "response": f"{word} {draw.random()}",
                    "system": system,
                    "rating": (system == best) + 0.3 * draw.random(),
                }
            )
        rows[-1]["document"] = rows[-2]["document"]
    return rows


def load(tmp_path: Path, rows: Sequence[Row], name: str = "rows.jsonl") -> dict[str, files.Recorded]:
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = Files(path=str(path), languages=())
    return {lang: files.recorded(config, lang) for lang in files.languages(config)}


def folder(tmp_path: Path, name: str) -> Path:
    path = tmp_path / name
    path.mkdir()
    return path


def scores(
    tmp_path: Path,
    sources: Sequence[files.Recorded],
    target: files.Recorded,
    backbone: RewardSettings,
    name: str,
    embeds: dict[str, Path] | None = None,
    seed: int = 0,
    **fitting: Any,
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """pool.npy of a target under heads trained on the sources."""
    embeds = embeds or {}
    heads, out = folder(tmp_path, f"{name}-heads"), folder(tmp_path, f"{name}-score")
    train_heads(sources, backbone, embeds, Fitting(FOLDS, (0, seed), **fitting), heads)
    write_recorded(target, score_rows(target, backbone, heads, embeds.get(target.lang)), out)
    write_notes(backbone, {target.lang, *(source.lang for source in sources)}, out)
    table: np.ndarray[Any, np.dtype[np.float64]] = np.load(out / "pool.npy")
    assert np.array_equal(table, np.load(out / "baseline.npy"), equal_nan=True)
    return table


def reference(data: files.Recorded, score: Any, out: Path, seed: int = 0) -> None:
    """pool.npy of a reference that learns nothing."""
    request = Request(Files("rows.jsonl", ("de",)), seed, recorded=data)
    scorer = REWARDS["untrained"].load(None, Untrained(score), request)  # type: ignore[misc, arg-type]
    rows = scorer.score(data.prompts, data.responses)  # type: ignore[union-attr]
    write_recorded(data, np.array([value for row in rows for value in row], np.float64), out)


def accuracy(tmp_path: Path, target: files.Recorded, name: str) -> float:
    out = folder(tmp_path, f"{name}-judge")
    write_agreement(target, tmp_path / f"{name}-score", out)
    return float(np.mean(json.loads((out / "pairs.json").read_text(encoding="utf-8"))["correct"]))


def random_embeds(tmp_path: Path, data: dict[str, files.Recorded]) -> dict[str, Path]:
    """Random unit vectors in the format of the embed stage: documents all alike, responses all different."""
    embeds = {}
    for lang, recorded in data.items():
        out = embeds[lang] = folder(tmp_path, f"embed-{lang}")
        draw = np.random.default_rng(len(lang))
        rows = [(prompt.reward_text, response) for prompt, _, response, _ in recorded.flat()]
        texts = list(dict.fromkeys([document for document, _ in rows])), [response for _, response in rows]
        documents = np.ones((len(texts[0]), 8), np.float32) / np.sqrt(8)
        responses = draw.normal(size=(len(rows), 8)).astype(np.float32)
        unit = responses / np.linalg.norm(responses, axis=1, keepdims=True)
        write_rows(out / "texts.npz", [*texts[0], *texts[1]], [np.concatenate([documents, unit])])
    return embeds


@pytest.mark.parametrize(
    "backbone", [BagOfWords(), SystemIdentity(), SentenceEncoder()], ids=lambda b: type(b).__name__
)
@pytest.mark.parametrize("pooled", [False, True])
def test_a_document_s_own_ratings_never_reach_its_scores_at_home(
    tmp_path: Path, backbone: RewardSettings, pooled: bool
) -> None:
    rows = planted("de") + planted("tr")
    data = load(tmp_path, rows)
    embeds = random_embeds(tmp_path, data)
    langs = ["de", "tr"] if pooled else ["de"]
    before = scores(tmp_path, [data[lang] for lang in langs], data["de"], backbone, "before", embeds)
    for row in rows:
        if row["lang"] == "de" and row["id"] == "7":
            row["rating"] = 50.0 if row["system"] == "a" else -50.0
    data = load(tmp_path, rows)
    after = scores(tmp_path, [data[lang] for lang in langs], data["de"], backbone, "after", embeds)
    same = (before == after).all(axis=1)
    at = [prompt.id for prompt in data["de"].prompts].index("7")
    assert same[at]
    assert 0 < same.sum() < len(same)  # its fold keeps its scores, the others saw the change


@pytest.mark.parametrize(
    "backbone", [BagOfWords(), SystemIdentity(), SentenceEncoder()], ids=lambda b: type(b).__name__
)
def test_a_parallel_document_s_ratings_never_reach_its_scores_abroad(tmp_path: Path, backbone: RewardSettings) -> None:
    rows = [row | {"group": f"parallel {row['id']}"} for lang in ("de", "tr") for row in planted(lang)]
    own = [
        row | {"document": f"own {row['document']}"} for row in rows[-10:]
    ]  # the same text would be the same document
    rows += [row | {"id": f"own {row['id']}", "group": f"own {row['id']}"} for row in own]
    data = load(tmp_path, rows)
    embeds = random_embeds(tmp_path, data)
    before = scores(tmp_path, [data["de"]], data["tr"], backbone, "before", embeds)
    for row in rows:
        if row["lang"] == "de" and row["id"] == "7":
            row["rating"] = 50.0 if row["system"] == "a" else -50.0
    data = load(tmp_path, rows)
    after = scores(tmp_path, [data["de"]], data["tr"], backbone, "after", embeds)
    fold_of = json.loads((tmp_path / "after-heads" / "heads.json").read_text(encoding="utf-8"))["folds"]
    same = {prompt.id: bool(kept) for prompt, kept in zip(data["tr"].prompts, (before == after).all(1), strict=True)}
    mates = {name for name in map(str, range(40)) if fold_of[f"parallel {name}"] == fold_of["parallel 7"]}
    assert {name for name, kept in same.items() if kept} == mates  # not those of Turkish alone: all heads score them


def test_random_ratings_of_parallel_documents_are_not_recalled_abroad(tmp_path: Path) -> None:
    """Documents whose words name them, rated at random, the same in both languages: what is known is leaked."""
    draw, rows = random.Random(5), []
    for d in range(60):
        best = draw.choice("ab")
        for lang in ("de", "tr"):
            rows += [
                {"id": f"{lang}{d}", "lang": lang, "group": str(d), "document": f"{lang} name{d}",
                 "response": f"name{d}{system}", "system": system, "rating": float(system == best)}
                for system in "ab"
            ]  # fmt: skip
    data = load(tmp_path, rows)
    for source, target in (("de", "tr"), ("de", "de")):
        scores(tmp_path, [data[source]], data[target], BagOfWords(), f"{source}-{target}")
        assert accuracy(tmp_path, data[target], f"{source}-{target}") < 0.65


@pytest.mark.parametrize("objective", ["pointwise", "pairwise"])
def test_a_cap_on_documents_takes_a_nested_sample(tmp_path: Path, objective: str) -> None:
    rows = planted("de") + planted("tr")
    data = load(tmp_path, rows)
    tables = {}
    for name, documents in (("8", 8), ("16", 16), ("all", 40), ("null", None)):
        own = [data["de"]]
        tables[name] = scores(tmp_path, own, data["tr"], BagOfWords(), name, documents=documents, objective=objective)
    assert np.array_equal(tables["all"], tables["null"]) and not np.array_equal(tables["8"], tables["16"])
    first = set(in_order((prompt.group for prompt in data["de"].prompts), 0, 0)[:8])
    small = {prompt.id for prompt in data["de"].prompts if prompt.group in first}
    for row in rows:
        if row["lang"] == "de" and row["id"] not in small:
            row["rating"] = -row["rating"]
    changed = load(tmp_path, rows)
    after = {
        n: scores(tmp_path, [changed["de"]], changed["tr"], BagOfWords(), f"after{n}", documents=n) for n in (8, 16)
    }
    if objective == "pointwise":
        assert np.array_equal(tables["8"], after[8])
    assert not np.array_equal(tables["16"], after[16])


def test_at_home_a_document_outside_the_sample_is_scored_by_the_head_of_its_fold(tmp_path: Path) -> None:
    data = load(tmp_path, planted("de"))["de"]
    table = scores(tmp_path, [data], data, SystemIdentity(), "home", documents=8)
    fold_of = json.loads((tmp_path / "home-heads" / "heads.json").read_text(encoding="utf-8"))["folds"]
    with np.load(tmp_path / "home-heads" / "heads.npz") as heads:
        expected = [heads["weight"][fold_of[prompt.group]] for prompt in data.prompts]
    assert np.array_equal(table, expected)
    assert len(set(fold_of.values())) == FOLDS and len(fold_of) == 40


def test_pairwise_heads_learn_from_differences_within_a_prompt(tmp_path: Path) -> None:
    rows = planted("de", 60)
    for row in rows:
        row["rating"] += 100 * (int(row["id"]) % 7)  # documents differ far more than responses do
    data = load(tmp_path, rows)["de"]
    for objective in ("pointwise", "pairwise"):
        scores(tmp_path, [data], data, BagOfWords(), objective, objective=objective)
    assert accuracy(tmp_path, data, "pairwise") > 0.95
    equal = load(tmp_path, [{**row, "rating": 1.0} for row in rows])["de"]
    with pytest.raises(DataError, match="No prompt has two responses that were rated differently"):
        scores(tmp_path, [equal], equal, BagOfWords(), "equal", objective="pairwise")


def test_cross_validation_on_the_source_chooses_what_a_head_reads(tmp_path: Path) -> None:
    data = load(tmp_path, planted("de", 80))["de"]
    embeds = random_embeds(tmp_path, {"de": data})
    texts = [response for _, _, response, _ in data.flat()]
    documents = [prompt.reward_text for prompt in data.prompts]
    good = np.array([[1.0 if "gut" in text else -1.0, 1.0] for text in texts])  # quality is in the response alone
    vectors = np.concatenate([np.tile([0.0, 1.0], (len(documents), 1)), good / np.sqrt(2)])
    write_rows(embeds["de"] / "texts.npz", [*documents, *texts], [vectors])
    scores(tmp_path, [data], data, SentenceEncoder(), "chosen", embeds)
    chosen = json.loads((tmp_path / "chosen-heads" / "heads.json").read_text(encoding="utf-8"))["features"]
    assert set(chosen) <= {"response", "both"} and accuracy(tmp_path, data, "chosen") > 0.95
    scores(tmp_path, [data], data, SentenceEncoder(head="interaction"), "fixed", embeds)
    fixed = json.loads((tmp_path / "fixed-heads" / "heads.json").read_text(encoding="utf-8"))["features"]
    assert set(fixed) == {"interaction"} and accuracy(tmp_path, data, "fixed") < 0.8


def test_features_are_found_by_their_text(tmp_path: Path) -> None:
    texts = [f"text {i}" for i in range(50)]
    blocks = [np.arange(50.0)[:, None], np.random.default_rng(0).normal(size=(50, 3))]
    path = tmp_path / "rows.npz"
    write_rows(path, texts, blocks)
    picked = [7, 3, 3, 49, 0]
    found = read_rows(path, [texts[i] for i in picked])
    assert all(np.array_equal(one, block[picked]) for one, block in zip(found, blocks, strict=True))
    with pytest.raises(StageError, match="1 texts of 2 have no features"):
        read_rows(path, ["text 1", "text 50"])


def test_the_same_document_under_two_ids_stays_in_one_fold(tmp_path: Path) -> None:
    rows = planted("de")
    for row in rows:
        if int(row["id"]) >= 20:
            row["document"] = next(r["document"] for r in rows if int(r["id"]) == int(row["id"]) - 20)
    data = load(tmp_path, rows)["de"]
    heads = folder(tmp_path, "heads")
    train_heads([data], BagOfWords(), {}, Fitting(FOLDS), heads)
    fold_of = json.loads((heads / "heads.json").read_text(encoding="utf-8"))["folds"]
    assert len(fold_of) == 20  # for 40 ids


def test_of_fewer_documents_than_folds_each_is_a_fold(tmp_path: Path) -> None:
    """Heads of empty folds had seen everything, twice in the mean abroad."""
    data = load(tmp_path, planted("de", 3) + planted("tr", 3))
    scores(tmp_path, [data["de"]], data["tr"], BagOfWords(), "few")
    kept = json.loads((tmp_path / "few-heads" / "heads.json").read_text(encoding="utf-8"))
    assert sorted(kept["folds"].values()) == [0, 1, 2] and len(kept["features"]) == 3


def test_abroad_a_row_gets_the_mean_of_the_same_heads(tmp_path: Path) -> None:
    data = load(tmp_path, planted("de") + planted("tr"))
    table = scores(tmp_path, [data["de"]], data["tr"], SystemIdentity(), "de")
    with np.load(tmp_path / "de-heads" / "heads.npz") as heads:
        assert heads["weight"].shape == (FOLDS, 2)
        assert table == pytest.approx(np.tile(heads["weight"].mean(axis=0), (len(table), 1)))


def test_true_labels_recover_a_planted_signal_and_permuted_ones_do_not(tmp_path: Path) -> None:
    data = load(tmp_path, planted("de", 80))["de"]
    scores(tmp_path, [data], data, BagOfWords(), "true")
    assert accuracy(tmp_path, data, "true") > 0.95
    shuffled = []
    for k in range(1, 25):
        scores(tmp_path, [data], data, BagOfWords(permutation=k), f"shuffled{k}")
        shuffled.append(accuracy(tmp_path, data, f"shuffled{k}"))
    assert len(set(shuffled)) > 1
    assert 0.3 < np.mean(shuffled) < 0.7


def test_scores_do_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    rows = planted("de") + planted("tr")
    first = load(tmp_path, rows)
    random.Random(0).shuffle(rows)
    second = load(tmp_path, rows, "shuffled.jsonl")
    for target in ("de", "tr"):
        one = scores(tmp_path, [first["de"]], first[target], BagOfWords(), f"one-{target}")
        two = scores(tmp_path, [second["de"]], second[target], BagOfWords(), f"two-{target}")
        assert one.tobytes() == two.tobytes()


def test_systems_that_say_the_same_tie_wherever_they_stand(tmp_path: Path) -> None:
    """The last rows of a matrix are multiplied in another order than the others, so that equal rows differ by a bit."""
    draw = np.random.default_rng(0)
    for documents in (9, 10, 11):  # 27, 30 and 33 rows
        said = [" ".join(f"word{number}" for number in draw.integers(0, 90, 60)) for _ in range(documents)]
        facts = [(str(d), text, system, float(draw.normal())) for d, text in enumerate(said) for system in "abc"]
        rows = [
            {"id": d, "lang": "de", "document": f"text {d}", "response": text, "system": system, "rating": rating}
            for d, text, system, rating in facts
        ]
        data = load(tmp_path, rows, f"{documents}.jsonl")["de"]
        table = scores(tmp_path, [data], data, BagOfWords(), f"same{documents}")
        assert (table == table[:, :1]).all() and len(np.unique(table)) == documents
        by_system = scores(tmp_path, [data], data, SystemIdentity(), f"system{documents}")
        assert (by_system != by_system[:, :1]).any()  # whatever they say


def test_the_seed_decides_the_folds(tmp_path: Path) -> None:
    data = load(tmp_path, planted("de"))["de"]
    tables = [scores(tmp_path, [data], data, BagOfWords(), f"seed{seed}", seed=seed) for seed in (0, 1)]
    assert not np.array_equal(*tables)


def test_a_system_the_source_has_not_is_as_good_as_the_mean(tmp_path: Path) -> None:
    abroad = [{**row, "system": {"a": "a", "b": "new"}[row["system"]]} for row in planted("tr")]
    data = load(tmp_path, planted("de") + abroad)
    table = scores(tmp_path, [data["de"]], data["tr"], SystemIdentity(), "de")
    assert (table[:, 1] == 0).all()
    assert (table[:, 0] != 0).all()


def three_systems(tmp_path: Path) -> files.Recorded:
    ratings = {"1": {"a": 1, "b": 2, "c": 2}, "2": {"a": 5, "b": 3}}
    rows = [
        {"id": i, "lang": "id", "document": f"d{i}", "response": "x" * (length + 1), "system": s, "rating": r}
        for i, rated in ratings.items()
        for length, (s, r) in enumerate(rated.items())
    ]
    return load(tmp_path, rows)["id"]


def test_agreement_counts_pairs_with_different_ratings(tmp_path: Path) -> None:
    data = three_systems(tmp_path)
    score, judge = folder(tmp_path, "score"), folder(tmp_path, "judge")
    reference(data, "length", score)
    assert np.load(score / "pool.npy").tolist()[0] == [1, 2, 3]
    assert np.isnan(np.load(score / "pool.npy")[1]).tolist() == [False, False, True]
    write_agreement(data, score, judge)
    one, two = (prompt.group for prompt in data.prompts)
    assert json.loads((judge / "pairs.json").read_text(encoding="utf-8")) == {
        "group": [one, one, two],  # b over a, c over a; b and c are rated alike; a over b
        "correct": [1, 1, 0],
    }
    spearman = json.loads((judge / "spearman.json").read_text(encoding="utf-8"))
    assert spearman["n"] == 5
    assert spearman["rho"] == pytest.approx(-0.75 / np.sqrt(9 * 9.5))  # by hand, ties at their mean rank
    held = json.loads((score / "heldout.json").read_text(encoding="utf-8"))
    assert (held["chosen"], held["rejected"]) == ([2, 3, 1], [1, 1, 2])
    assert (held["chosen_length"], held["rejected_length"]) == ([2, 3, 1], [1, 1, 2])


def test_people_agree_with_themselves_and_a_constant_has_no_rank_correlation(tmp_path: Path) -> None:
    data = three_systems(tmp_path)
    gold, judge, flat = (folder(tmp_path, name) for name in ("gold", "judge", "flat"))
    rated_responses(data, gold)
    reference(data, "human", flat)
    assert (gold / "pool.npy").read_bytes() == (flat / "pool.npy").read_bytes()
    write_agreement(data, gold, judge)
    assert json.loads((judge / "spearman.json").read_text(encoding="utf-8")) == {"rho": 1.0, "n": 5}
    np.save(flat / "pool.npy", np.array([[1.0, 1.0, 1.0], [1.0, 1.0, np.nan]]))
    write_agreement(data, flat, judge)
    assert json.loads((judge / "spearman.json").read_text(encoding="utf-8"))["rho"] is None
    assert json.loads((judge / "pairs.json").read_text(encoding="utf-8"))["correct"] == [0.5, 0.5, 0.5]


def test_random_scores_are_drawn_by_name(tmp_path: Path) -> None:
    data = load(tmp_path, planted("de"))["de"]
    tables = []
    for name, seed in (("r0", 0), ("again", 0), ("r1", 1)):
        reference(data, "random", folder(tmp_path, name), seed)
        tables.append(np.load(tmp_path / name / "pool.npy"))
    assert np.array_equal(tables[0], tables[1])
    assert not np.array_equal(tables[0], tables[2])
    assert len(np.unique(tables[0])) == tables[0].size
    assert 0.35 < tables[0].mean() < 0.65


def test_languages_that_the_encoder_does_not_know_are_marked(tmp_path: Path) -> None:
    data = {**load(tmp_path, planted("de")), "id": three_systems(tmp_path)}
    embeds = random_embeds(tmp_path, data)
    for name, backbone, target, unknown in (
        ("abroad", SentenceEncoder(), "id", ["id"]),
        ("home", SentenceEncoder(), "de", []),
        ("local", SentenceEncoder(encoder="some/folder"), "id", []),
        ("words", BagOfWords(), "id", []),
    ):
        scores(tmp_path, [data["de"]], data[target], backbone, name, embeds)
        notes = json.loads((tmp_path / f"{name}-score" / "notes.json").read_text(encoding="utf-8"))
        assert notes == {"unknown_language": bool(unknown), "unknown_languages": unknown}


def test_what_cannot_be_scored_is_refused(tmp_path: Path) -> None:
    data = three_systems(tmp_path)
    with pytest.raises(ConfigError, match="embed stage"):
        blocks_of(data, Untrained("cosine"), None)
    with pytest.raises(StageError, match="no features"):
        blocks_of(data, Untrained("length"), None)
    with pytest.raises(StageError, match="cannot learn from recorded"):
        train_heads([data], Untrained("length"), {}, Fitting(FOLDS), folder(tmp_path, "a"))


def test_systems_and_groups_whose_names_end_in_nul_are_told_apart(tmp_path: Path) -> None:
    rows = planted("de")
    data = load(tmp_path, rows)["de"]
    nul = ["\0" * int(prompt.id) for prompt in data.prompts]
    renamed = files.Recorded(
        "de",
        [msgspec.structs.replace(p, group=f"g{n}", id=f"p{n}") for p, n in zip(data.prompts, nul, strict=True)],
        [["a", "a\0"] for _ in data.systems],
        data.responses,
        [[1.0, 0.0] for _ in data.ratings],
    )
    found = scores(tmp_path, [renamed], renamed, SystemIdentity(), "nul")
    assert (found[:, 0] > found[:, 1]).all()
    scores(tmp_path, [renamed], renamed, SystemIdentity(), "pairs", objective="pairwise")
