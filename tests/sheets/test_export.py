"""Sheets of real finished grids: blinded, shuffled, each pair once, and a key that knows all of it."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grids import Row, table

from xling.cli import main
from xling.errors import ConfigError, DataError, StoreError
from xling.grid import joined
from xling.grid.host import this_process
from xling.grid.records import Ref
from xling.grid.store import Store
from xling.results.items import read_array
from xling.results.plan import read_plan
from xling.sheets.export import COLUMNS, Asked, Exported, export, parse_filters
from xling.sheets.key import Key, digest, read_key, unguarded


def exported(store: Store, out: Path, *cells: str, **asked: Any) -> Exported:
    return export(store, "g", parse_filters(cells), out, Asked(**asked))


def responses(store: Store, role: str, target: str) -> dict[str, list[str]]:
    """Prompt to responses of a cell of the target, from the store's own files."""
    cell = next(cell for cell in read_plan(store.grid_folder("g")).cells if cell.axes["target_lang"] == target)
    lines = (store.folder(cell.stages[role].kind, cell.stages[role].key) / "samples.jsonl").read_text().splitlines()
    return {row["prompt"]: row["responses"] for row in map(json.loads, lines)}


def sides(key: Key, sheet: str, row: Row) -> tuple[str, str]:
    """(policy's, baseline's) response in a row of a sheet."""
    [side] = [found.policy for one in key.sheets if one.name == sheet for found in one.rows if found.id == row["id"]]
    texts = unguarded(row["response_a"]), unguarded(row["response_b"])
    return texts if side == "A" else (texts[1], texts[0])


def test_a_sheet_holds_prompts_picks_and_opponents(sampled: Store, tmp_path: Path) -> None:
    exported(sampled, tmp_path, "source=en,judge=gold", n=5)
    key, rows = read_key(tmp_path), table(tmp_path / "sheet.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key.json", "sheet.csv", "sheet.html"]
    assert len(rows) == 5 and tuple(rows[0]) == COLUMNS and {row["preference"] for row in rows} == {""}
    pool, baseline = responses(sampled, "pool", "tr"), responses(sampled, "baseline", "tr")
    [cell] = key.cells
    items = json.loads(sampled.content("judge", cell.judge, "items.json"))
    pick = dict(zip(items["prompt"], items["index"], strict=True))
    row_of = {row.id: row for row in key.sheets[0].rows}
    for row in rows:
        pair = key.pairs[row_of[row["id"]].pair]
        policy, opponent = sides(key, "sheet", row)
        assert digest(pool[pair.prompt][pick[pair.prompt]]) == digest(policy) == pair.policy
        assert digest(opponent) == pair.baseline in map(digest, baseline[pair.prompt])
        assert row["prompt"].endswith("Türkçe özet:") and row["language"] == "tr"


def test_the_judges_points_are_of_the_very_pair(sampled: Store, tmp_path: Path) -> None:
    exported(sampled, tmp_path, "judge=target_rm")
    key = read_key(tmp_path)
    verdict = sampled.folder("score", key.cells[0].verdict)
    quality, opponents = (read_array(verdict / f"{name}.npy") for name in ("pool", "baseline"))
    pool, baseline = responses(sampled, "pool", "tr"), responses(sampled, "baseline", "tr")
    prompts = list(pool)
    for cell in key.cells:
        for number, point in zip(cell.pairs, cell.points, strict=True):
            pair = key.pairs[number]
            at = prompts.index(pair.prompt)
            q = quality[at][list(map(digest, pool[pair.prompt])).index(pair.policy)]
            o = opponents[at][list(map(digest, baseline[pair.prompt])).index(pair.baseline)]
            assert point == (0.5 if pair.identical else float((np.sign(q - o) + 1) / 2))
    assert {0.0, 1.0} <= {point for cell in key.cells for point in cell.points}


def test_nothing_in_a_sheet_tells_whose_a_response_is(sampled: Store, tmp_path: Path) -> None:
    exported(sampled, tmp_path)
    for name in ("sheet.csv", "sheet.html"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        for word in ("best_of_n", "baseline", 'policy"', "source_lang", "gold", "target_rm", str(tmp_path)):
            assert word not in text
        assert not any(pair.prompt in text for pair in read_key(tmp_path).pairs)


def test_sides_and_order_are_drawn(recorded: Store, tmp_path: Path) -> None:
    exported(recorded, tmp_path, annotators=4)
    key = read_key(tmp_path)
    said = Counter(row.policy for sheet in key.sheets for row in sheet.rows)
    total = said.total()
    assert total > 100 and 0.35 < said["A"] / total < 0.65
    arabic = [sheet for sheet in key.sheets if sheet.lang == "ar"]
    orders = {tuple(row.pair for row in sheet.rows) for sheet in arabic}
    assert len(orders) == 4 and len({tuple(sorted(order)) for order in orders}) == 1
    ids = [row.id for sheet in key.sheets for row in sheet.rows]
    assert len(set(ids)) == len(ids) == total


def test_the_same_seed_gives_the_same_bytes_and_another_another(recorded: Store, tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        exported(recorded, tmp_path / name, n=6, seed=seed)
    one, two, three = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two", "three")
    )
    assert one == two and len(one) == 5
    assert all(one[name] != three[name] for name in one)


def test_cells_that_picked_the_same_share_a_row(sampled: Store, tmp_path: Path) -> None:
    """Judges do not decide picks: the pairs of judge=gold and judge=target_rm are the same."""
    exported(sampled, tmp_path, n=7)
    key = read_key(tmp_path)
    by_source: dict[str, list[list[int]]] = {}
    for cell in key.cells:
        by_source.setdefault(cell.axes["source_lang"], []).append(cell.pairs)
    assert all(one == other for one, other in by_source.values())
    texts = [
        (row["prompt"], frozenset((row["response_a"], row["response_b"]))) for row in table(tmp_path / "sheet.csv")
    ]
    assert len(set(texts)) == len(texts) == sum(not pair.identical for pair in key.pairs)


def test_identical_responses_are_no_rows_and_are_counted(
    recorded: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sheet", "export", "g", "--root", str(recorded.root), "--cells", "source=en,target=en",
                 "--n", "8", "--out", str(tmp_path / "s")]) == 0  # fmt: skip
    key = read_key(tmp_path / "s")
    [cell] = key.cells
    identical = sum(key.pairs[pair].identical for pair in cell.pairs)
    assert identical > 0 and len(cell.pairs) - identical == 8 == len(table(tmp_path / "s" / "sheet.csv"))
    said = f"1 cell with {8 + identical} prompts in all: {identical} have identical responses"
    assert said in capsys.readouterr().out
    assert all(point == 0.5 for pair, point in zip(cell.pairs, cell.points, strict=True) if key.pairs[pair].identical)


def test_all_prompts_where_there_are_fewer(recorded: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["sheet", "export", "--root", str(recorded.root), "--out", str(tmp_path), "--annotators", "2"])
    key = read_key(tmp_path)
    assert all(len(cell.pairs) == 20 for cell in key.cells)
    assert "4 of the cells have fewer than 100 prompts" in capsys.readouterr().out
    names = {path.name for path in tmp_path.glob("*.html")}
    assert names == {f"sheet_{lang}_{k}.html" for lang in ("ar", "en") for k in (1, 2)}


def test_nothing_heavy_is_imported(recorded: Store, tmp_path: Path) -> None:
    command = ["sheet", "export", "g", "--root", str(recorded.root), "--n", "3", "--out", str(tmp_path / "s")]
    script = f"import sys, xling.cli; xling.cli.main({command!r}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "xling.sheets.export" in loaded and not loaded & {"torch", "transformers", "datasets", "matplotlib", "wandb"}


# --- what stands in the way ---------------------------------------------------------------------------------


def test_a_trained_policys_first_sample_is_taken(sampled: Store, tmp_path: Path) -> None:
    """items.json without a pick, and a judge without scores: the first response, the prompt's win.

    Of a prompt that the judge was not asked about, or did not answer, people are not asked either.
    """
    store = copied(sampled, tmp_path / "root")
    plan = read_plan(store.grid_folder("g"))
    ref = plan.cells[0].judge
    old = store.load(ref.kind, ref.key)
    new = store.begin(ref.kind, ref.key, this_process())
    items = json.loads(joined.content(old / "items.json"))
    del items["index"]
    items["win"] = [0.25] * len(items["win"])
    items = {name: column[1:] for name, column in items.items()}
    items["win"][0] = None
    (new / "items.json").write_text(json.dumps(items))
    sheet, done = store.sheet(ref.kind, ref.key), store.check(ref.kind, ref.key).done
    assert sheet and done
    store.publish(sheet, ref.key, new, done.run, replace=True)
    path = store.grid_folder("g") / "plan.json"
    content = json.loads(path.read_text())
    del content["cells"][0]["stages"]["verdict"], content["checksum"]
    path.write_text(json.dumps(content))
    axes = plan.cells[0].axes
    exported(store, tmp_path / "s", f"source={axes['source_lang']},judge={axes['judge']}")
    key = read_key(tmp_path / "s")
    first = {prompt: digest(said[0]) for prompt, said in responses(store, "pool", "tr").items()}
    assert all(pair.policy == first[pair.prompt] for pair in key.pairs)
    assert {pair.prompt for pair in key.pairs} == set(items["prompt"][1:])
    assert {p for n, p in zip(key.cells[0].pairs, key.cells[0].points, strict=True) if not key.pairs[n].identical} == {
        0.25
    }


def test_people_are_asked_about_the_pairs_that_a_language_model_saw(sampled: Store, tmp_path: Path) -> None:
    """Verdicts in place of scores: on the last of the baseline's samples alone; one is a tie, one is not answered."""
    store = copied(sampled, tmp_path / "root")
    cell = next(c for c in read_plan(store.grid_folder("g")).cells if c.axes["judge"] == "gold")
    items = json.loads(store.content("judge", cell.judge.key, "items.json"))
    rows = len(items["prompt"])
    preferences = [0.5, None, *([0.75, 0.25] * rows)][:rows]
    columns = {
        "prompt": items["prompt"],
        "sample": items["index"],
        "opponent": [1] * rows,
        "p_first": preferences,
        "p_second": [None] * rows,
        "unanswered_first": [p is None for p in preferences],
        "unanswered_second": [False] * rows,
        "identical": [False] * rows,
    }
    ref = cell.stages["verdict"]
    republished(store, ref, {"verdicts.json": json.dumps(columns)})
    axes = f"source={cell.axes['source_lang']},judge=gold"
    exported(store, tmp_path / "s", axes)
    key = read_key(tmp_path / "s")
    [told] = key.cells
    opponents = responses(store, "baseline", "tr")
    said = dict(zip(items["prompt"], [0.5, None, *([1.0, 0.0] * rows)], strict=False))
    for number, point in zip(told.pairs, told.points, strict=True):
        pair = key.pairs[number]
        assert pair.baseline == digest(opponents[pair.prompt][1])
        assert point == (0.5 if pair.identical else said[pair.prompt])
    assert {key.pairs[n].prompt for n in told.pairs} == set(items["prompt"]) - {items["prompt"][1]}
    columns["sample"] = [99] * rows
    republished(store, ref, {"verdicts.json": json.dumps(columns)})
    with pytest.raises(StoreError, match="are not those of its picks"):
        exported(store, tmp_path / "t", axes)


def republished(store: Store, ref: Ref, files: dict[str, str]) -> None:
    """A finished stage anew, with other files in it."""
    sheet, done = store.sheet(ref.kind, ref.key), store.check(ref.kind, ref.key).done
    assert sheet and done
    new = store.begin(ref.kind, ref.key, this_process())
    for name, text in files.items():
        (new / name).write_text(text)
    store.publish(sheet, ref.key, new, done.run, replace=True)


def test_a_prompt_that_a_cell_lacks_moves_no_other(sampled: Store, tmp_path: Path) -> None:
    store = copied(sampled, tmp_path / "root")
    exported(store, tmp_path / "s", "source=en,judge=gold")
    before = read_key(tmp_path / "s")
    order = [before.pairs[n].prompt for n in before.cells[0].pairs]
    ref = next(c for c in read_plan(store.grid_folder("g")).cells if c.judge.key == before.cells[0].judge).judge
    items = json.loads(store.content("judge", ref.key, "items.json"))
    items["win"][items["prompt"].index(order[3])] = None
    republished(store, ref, {"items.json": json.dumps(items)})
    exported(store, tmp_path / "t", "source=en,judge=gold")
    after = read_key(tmp_path / "t")
    assert [after.pairs[n].prompt for n in after.cells[0].pairs] == order[:3] + order[4:]


def test_what_an_annotator_knows_tells_no_side(sampled: Store, tmp_path: Path) -> None:
    """Seed, name and rows are known. Ids and orders that follow from them would give away the coins."""
    exported(sampled, tmp_path / "en", "source=en,judge=gold", n=6)
    exported(sampled, tmp_path / "rm", "source=en,judge=target_rm", n=6)
    one, other = read_key(tmp_path / "en"), read_key(tmp_path / "rm")
    assert [pair.text for pair in one.pairs] == [pair.text for pair in other.pairs]  # the same to the eye
    assert [row.id for row in one.sheets[0].rows] != [row.id for row in other.sheets[0].rows]
    assert one.sheets[0].rows != other.sheets[0].rows


def copied(store: Store, root: Path) -> Store:
    shutil.copytree(store.root, root)
    return Store(root)


def test_unfinished_cells_are_left_out(sampled: Store, tmp_path: Path) -> None:
    store = copied(sampled, tmp_path / "root")
    cells = read_plan(store.grid_folder("g")).cells
    shutil.rmtree(store.folder("judge", cells[0].judge.key))
    assert exported(store, tmp_path / "s").unfinished == 1
    for cell in cells[1:]:
        shutil.rmtree(store.folder("judge", cell.judge.key))
    with pytest.raises(ConfigError, match="none of the 4 cells asked for is finished"):
        exported(store, tmp_path / "s")


@pytest.mark.parametrize(
    ("cells", "sentence"),
    [
        ("source=de", "grid g has no such cell. Its values of source_lang are ar, en"),
        ("sorce=en", "no axis 'sorce'. Did you mean 'source_lang'?"),
        ("en", "'en' does not fit. Type axis=value"),
        ("source=", "'source=' does not fit"),
        ("optimizer=ppo", "Its values of optimizer are best_of_n"),
    ],
)
def test_cells_that_are_not_there(recorded: Store, tmp_path: Path, cells: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        exported(recorded, tmp_path / "s", cells)
    assert sentence in str(error.value) and not (tmp_path / "s").exists()


def test_several_values_and_axes_in_one_word() -> None:
    assert parse_filters(["source=en,tr,target=de", "seed=0"]) == {
        "source_lang": {"en", "tr"}, "target_lang": {"de"}, "seed": {"0"}}  # fmt: skip


def test_what_was_exported_is_never_written_over(recorded: Store, tmp_path: Path) -> None:
    exported(recorded, tmp_path, n=5)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    exported(recorded, tmp_path, n=5)
    with pytest.raises(ConfigError, match="holds another sheet already"):
        exported(recorded, tmp_path, n=6)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with (tmp_path / "sheet_en.csv").open("ab") as file:
        file.write(b'"an answer"\r\n')
    with pytest.raises(ConfigError, match=r"sheet_en\.csv' was changed after the export"):
        exported(recorded, tmp_path, n=5)


@pytest.mark.parametrize("name", ["n", "annotators"])
def test_numbers_below_one(recorded: Store, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"--{name} 0 does not fit: expected a whole number >= 1"):
        exported(recorded, tmp_path, **{name: 0})


def test_data_that_has_changed_since(tmp_path: Path, recorded: Store) -> None:
    data = recorded.root / "rows.jsonl"
    before = data.read_text(encoding="utf-8")
    try:
        data.write_text(before.replace("Summarise", "Summarize"), encoding="utf-8")
        with pytest.raises(DataError, match="has changed since the grid was planned"):
            exported(recorded, tmp_path / "s")
    finally:
        data.write_text(before, encoding="utf-8")


def test_a_key_that_was_edited_or_is_not_there(recorded: Store, tmp_path: Path) -> None:
    exported(recorded, tmp_path, n=5)
    path = tmp_path / "key.json"
    path.write_text(path.read_text().replace('"policy": "A"', '"policy": "B"'))
    with pytest.raises(StoreError, match="was changed after the export"):
        read_key(tmp_path)
    path.write_text("{}")
    with pytest.raises(StoreError, match="is no key of a sheet"):
        read_key(tmp_path)
    path.unlink()
    with pytest.raises(ConfigError, match=r"has no key\.json"):
        read_key(tmp_path)
