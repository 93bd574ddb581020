"""`xling export`: models, matrices and items as folders that others read without xling, and to the hub.

export(store, "demo", "reward[en]", Asked(Path("rm-en")))     # a reward model; also sft[..], align[..]
export(store, "demo", "matrix", Asked(Path("matrix")))        # a data set: cells, measures, accuracy
export(store, "demo", "items", Asked(Path("items")))          # a data set: a row a prompt and cell, and all responses
export(store, "demo", "samples", Asked(Path("samples")))      # samples.jsonl: a line a prompt and cell, with its texts
"""

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xling.api import Grid
from xling.errors import ConfigError
from xling.exports import card
from xling.exports.push import check_push, push
from xling.grid.files import disk_error, share
from xling.grid.grids import read_grid, stage_at
from xling.grid.records import PlannedStage, Ref, Sheet
from xling.grid.store import Store
from xling.sheets.export import Filters

TABLES = {
    "matrix": ("cells", "measures", "long", "accuracy"),
    "items": ("items", "samples", "baselines"),
    "samples": ("samples",),
}
MODELS = ("reward", "sft", "align")  # kinds of stages that train one
KEYS = ("source_lang", "target_lang")  # in front of the other axes


@dataclass(frozen=True)
class Asked:
    """out: a new folder. push: OWNER/NAME on the hub. license: an id as the hub knows it. cells: of samples, which."""

    out: Path
    push: str | None = None
    license: str | None = None
    cells: Filters | None = None


def export(store: Store, name: str, what: str, asked: Asked) -> list[str]:
    """Write the folder, and push it if asked; sentences that say what was done. ConfigError: nothing was written."""
    if os.path.lexists(asked.out):
        raise ConfigError(f"'{asked.out}' is there already. Give --out another folder, or delete that one.")
    card.check_licence(asked.license)
    if asked.cells and what != "samples":
        raise ConfigError(
            f"--cells chooses among samples, not in {what}. Type `xling export samples`, or leave it out."
        )
    kind = "dataset" if what in TABLES else "model"
    if asked.push is not None:
        check_push(asked.push, kind)
    grid = Grid(store, name)
    stage = None if what in TABLES else trained(store, name, what)
    try:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{asked.out.name[:64]}.", dir=asked.out.parent))
    except OSError as error:
        raise disk_error(error, asked.out, "--out FOLDER") from error
    try:
        if stage is not None:
            said = _model(grid, stage, made, asked)
        else:
            said = (_samples if what == "samples" else _tables)(grid, what, made, asked)
        share(os.fspath(made))  # some writers give what they write to its owner alone
        made.rename(asked.out)
    except OSError as error:
        raise disk_error(error, asked.out, "--out FOLDER") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    if asked.push:
        said = f"{said} {push(asked.out, asked.push, kind)}"
    return [said]


def trained(store: Store, name: str, what: str) -> PlannedStage:
    """The stage of a model that can go out. ConfigError: there is none, it is not trained (yet), or it is no model."""
    plan = read_grid(store, name)
    try:
        stage = stage_at(plan, what)
    except ConfigError as error:
        raise ConfigError(f"{error} Or give matrix, items or samples.") from None
    if stage.kind not in MODELS:
        there = [one.label for one in plan.stages if one.kind in MODELS]
        shown = f" Of this grid: {', '.join(there[:12])}{', ...' if len(there) > 12 else ''}." if there else ""
        raise ConfigError(f"{stage.label} trains no model, so that there is none to export.{shown}")
    state = store.examine(stage.kind, stage.key).state
    if state != "done":
        raise ConfigError(f"{stage.label} is {state}: there is no model to export yet. Run the grid's command again.")
    if store.dropped(stage.kind, stage.key):
        raise ConfigError(
            f"The weights of {stage.label} were dropped (keep_weights). To train it again delete "
            f"'{store.folder(stage.kind, stage.key)}' and run the grid's command with keep_weights=all."
        )
    return stage


def located(store: Store, name: str, what: str) -> Path:
    """The folder of a stage's result. ConfigError: it is not done."""
    stage = stage_at(read_grid(store, name), what)
    status = store.check(stage.kind, stage.key)
    if status.state != "done":
        raise ConfigError(
            f"{stage.label} is {status.state}{f' ({status.why})' if status.why else ''}: it has no result."
        )
    return store.folder(stage.kind, stage.key).absolute()


# --- models -------------------------------------------------------------------------------------------------


def _model(grid: Grid, stage: PlannedStage, out: Path, asked: Asked) -> str:
    from xling.exports.models import export_policy, export_reward

    store, folder = grid.store, grid.store.load(stage.kind, stage.key)
    sheet, done = store.sheet(stage.kind, stage.key), store.check(stage.kind, stage.key).done
    assert sheet is not None and done is not None  # `load` has read both
    is_reward = stage.kind == "reward"
    made = export_reward(store, sheet, folder, out) if is_reward else export_policy(folder, out)
    bases = _bases(store, sheet)
    langs = list(sheet.spec.get("langs", ())) or [sheet.spec["lang"]]
    fields: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-classification" if is_reward else "text-generation",
        "base_model": [base.partition("@")[0] for base in bases if "/" in base],  # ids of the hub, which takes no else
        "language": langs,
        "tags": ["xling", "reward-model" if is_reward else "policy"],
    }
    unknown = card.licence(fields, asked.license, f"what holds is that of {' and '.join(bases) or 'its data'}")
    parts = [_told(sheet, langs, made.form), *made.notes]
    if made.worst is not None:
        parts.append(f"Scores of this folder and xling's own lie {made.worst:.1e} of their spread apart (5 texts).")
    parts += ["", "## Use", "", "```python", *_use(made.form, asked.out.name), "```", "", "## Results", ""]
    rows, axes = _cells_of(grid, Ref(stage.kind, stage.key))
    command = read_grid(store, grid.name).command
    parts += [*card.results(rows, axes), "", *card.provenance(sheet, done, command, bases), "", *unknown]
    text = card.model_card(f"{stage.label} of grid {grid.name}", fields, [*parts, "", card.made_by()])
    (out / "README.md").write_text(text, encoding="utf-8")
    size = sum(path.stat().st_size for path in out.rglob("*")) / 1e6
    return f"{stage.label}: '{asked.out}' ({size:.1f} MB), to be read as {made.form}; README.md is its card."


def _told(sheet: Sheet, langs: list[str], form: str) -> str:
    task = sheet.spec.get("task", {}).get("name", "")
    if sheet.kind == "reward":
        learnt = f"the {', '.join(langs)} feedback of task {task}, {sheet.spec['objective']}"
        return (
            f"A reward model ({sheet.spec['rm']['name']}) trained on {learnt}. It is read as {form}; higher is better."
        )
    how = f"aligned by {sheet.spec['optimizer']['name']}" if sheet.kind == "align" else "fine-tuned on demonstrations"
    return f"A policy for {', '.join(langs)}, {how}, of task {task}. It is read as {form}."


def _use(form: str, name: str) -> list[str]:
    if form.startswith("a linear"):
        return ["import safetensors.numpy",
                f'head = safetensors.numpy.load_file("{name}/head.safetensors")  # weight, bias']  # fmt: skip
    if form.startswith("AutoModelFor") and "head" not in form and "Classification" not in form:
        return [f"from transformers import AutoTokenizer, {form}", f'model = {form}.from_pretrained("{name}")',
                f'tokenizer = AutoTokenizer.from_pretrained("{name}")']  # fmt: skip
    lines = [f'import sys; sys.path.insert(0, "{name}")', "from load_reward import Reward",
             'Reward().score(["a prompt"], ["a response"])  # tokenises as in training']  # fmt: skip
    if "Classification" in form:
        lines += ["# the same model; texts are then yours to tokenise", f"from transformers import {form}",
                  f'{form}.from_pretrained("{name}")']  # fmt: skip
    return lines


def _bases(store: Store, sheet: Sheet) -> list[str]:
    """Checkpoints that a result was trained from or reads with, as they were named."""
    found = dict[str, None]()
    for parent in sheet.parents.values():
        above = store.sheet(parent.kind, parent.key)
        if above is None:
            continue
        if parent.kind == "base":
            found[_base(above.spec)] = None
        else:
            found |= dict.fromkeys(_bases(store, above))
    return list(found)


def _base(spec: Mapping[str, Any]) -> str:
    named, commit = str(spec["checkpoint"]), str(spec.get("commit") or "")[:12]
    if named in ("packaged", "pretrain"):
        return "xling's packaged micro model (Apache-2.0)"
    return f"{named}@{commit}" if commit else Path(named).name


def _cells_of(grid: Grid, ref: Ref) -> tuple[list[dict[str, Any]], list[str]]:
    """Finished cells of the folded matrix in which a stage takes part, and the axes that tell them apart."""
    from xling.results.plan import Results, planned_entries, read_plan

    if not (grid.folder / "matrix.json").is_file():
        return [], []
    plan = read_plan(grid.folder)
    mine = [
        entry.axes
        for entry in planned_entries(plan, Results(grid.store, plan))
        if any(ref in cell.stages.values() for cell in entry.cells)
    ]
    rows: list[dict[str, Any]] = grid.cells.to_dict("records")
    used = [row for row in rows if row["status"] == "done" and any(_same(row, axes) for axes in mine)]
    names = [name for name in rows[0] if any(name in axes for axes in mine)] if used else []
    varying = [name for name in names if name in KEYS or len({str(row[name]) for row in rows}) > 1]
    return used, varying


def _same(row: Mapping[str, Any], axes: Mapping[str, str]) -> bool:
    return all(str(row.get(name, value)) == value for name, value in axes.items())


# --- data sets ----------------------------------------------------------------------------------------------


def _tables(grid: Grid, what: str, out: Path, asked: Asked) -> str:
    """One parquet file a table, and a card by which `datasets.load_dataset(FOLDER, TABLE)` finds them."""
    counts, configs, columns = dict[str, int](), list[dict[str, Any]](), list[str]()
    for table in TABLES[what]:
        frame = getattr(grid, table)
        if frame.empty:
            continue
        counts[table] = len(frame)
        frame.to_parquet(out / f"{table}.parquet", index=False)
        configs.append({"config_name": table, "data_files": f"{table}.parquet", "default": not configs})
        columns.append(f"| {table} | {len(frame)} | {', '.join(map(str, frame.columns))} |")
    if not counts:
        raise ConfigError(f"Grid {grid.name} has no finished cell, so that there is nothing to export.")
    _write_card(grid, what, out, asked, {"configs": configs}, columns, next(iter(counts)))
    rows = ", ".join(f"{count} {table}" for table, count in counts.items())
    return f"{what} of {grid.name}: '{asked.out}' ({rows}); datasets.load_dataset reads it."


def _samples(grid: Grid, what: str, out: Path, asked: Asked) -> str:
    """samples.jsonl, whose columns the card declares: a column may have no value in the first of its many lines."""
    from xling.exports import samples

    count, axes, told = samples.write(grid.store, grid.name, asked.cells or {}, out / samples.FILE)
    columns = {**{axis: {"dtype": "string"} for axis in axes}, **samples.FIELDS}
    features = [{"name": name, **kind} for name, kind in columns.items()]
    fields = {
        "configs": [{"config_name": what, "data_files": samples.FILE, "default": True}],
        "dataset_info": [{"config_name": what, "features": features}],
    }
    _write_card(grid, what, out, asked, fields, [f"| {what} | {count} | {', '.join(columns)} |"], what)
    left_out = "".join(f" {sentence}" for sentence in told)
    return f"samples of {grid.name}: '{asked.out}' ({count} lines); datasets.load_dataset reads it.{left_out}"


def _write_card(
    grid: Grid, what: str, out: Path, asked: Asked, head: Mapping[str, Any], columns: Sequence[str], first: str
) -> None:
    plan = read_grid(grid.store, grid.name)
    langs = sorted({str(cell.axes["target_lang"]) for cell in plan.cells})
    fields: dict[str, Any] = {**head, "language": langs, "tags": ["xling", "cross-lingual-alignment"]}
    unknown = card.licence(fields, asked.license, "what holds is that of the task's data")
    parts = [
        f"The {what} of an xling grid: reward models per source language, policies per target language, and how often "
        f"the aligned responses win. After the method of {card.CITE}. What the columns mean: docs/tables.md of xling.",
        "", "| table | rows | columns |", "|---|---|---|", *columns, "",
        "```python", "import datasets", f'datasets.load_dataset("{asked.out.name}", "{first}")', "```", "",
        "## Provenance", "", f"- command: `{card.asked(plan.command)}`",
        f"- commit of xling: `{plan.git}`", "", *unknown,
    ]  # fmt: skip
    text = card.model_card(f"{what} of grid {grid.name}", fields, [*parts, "", card.made_by()])
    (out / "README.md").write_text(text, encoding="utf-8")
