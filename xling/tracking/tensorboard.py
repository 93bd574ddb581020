"""TensorBoard (tracking.name=tensorboard): event files in <root>/tracking/tensorboard, a folder a run. docs/wandb.md.

A file is written whole or not at all, under a name that says whose it is: a run that is written again replaces its own,
and a grid that is folded again gets the next step of its series. Nothing needs a network.
"""

import importlib.util
import io
import json
import re
import secrets
import struct
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from xling.errors import ConfigError, install
from xling.grid.files import matching, write_atomically
from xling.tracking.base import Destination, read_mode

if TYPE_CHECKING:
    from xling.analysis.tidy.tables import Rows
    from xling.grid.store import Store
    from xling.tracking.runs import GridRun, StageRun

TITLE = "TensorBoard"
FILE = "events.out.tfevents"  # what the names of its files begin with; it reads them in their order
MOST_ROWS = 200  # of a table that is shown as text
PICTURES = ("matrix", "frontier", "learning")  # .png, as far as they are there


class Settings(Struct, frozen=True, tag_field="name", tag="tensorboard"):
    mode: str  # one of MODES; all else in `tracking` is W&B's


def read(values: Mapping[str, Any]) -> Settings:
    """Settings; ConfigError if they are to be used and the package is not there."""
    if (mode := read_mode(values)) != "off" and importlib.util.find_spec("tensorboard") is None:
        raise ConfigError(f"tracking.name=tensorboard needs tensorboard. Type {install('tensorboard')}.")
    return Settings(mode)


def destination(settings: Settings, environment: Mapping[str, str]) -> tuple[Destination | None, str]:
    """The disk, whatever the network is like."""
    return (None if settings.mode == "off" else Destination("offline", "", None, "none", tracker="tensorboard")), ""


def instead(to: Destination, error: Exception) -> None:
    """Nowhere: trouble is this one run's."""


def write_stage(run: "StageRun", to: Destination) -> None:
    """A stage's curve, its numbers at step 0, its axes as hyperparameters, the rest as text."""
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb

    done = run.result.done
    when = datetime.fromisoformat(done.run.when).timestamp()
    events = [
        (0, hparams_pb({**run.axes, "grid": run.grid, "kind": done.kind}, trial_id=run.id, start_time_secs=when)),
        (0, _text("about", {**run.config, "summary": run.summary})),
        (0, _scalars(_numbers(done.kind, run.summary))),
        *((step, _scalars(values)) for step, values in run.curve),
    ]
    _write(_folder(run.store, run.grid, run.name) / f"{FILE}.0.{run.id}", events, when)


def write_grid(run: "GridRun", to: Destination) -> None:
    """The next step of the grid's series: win rates with their intervals, counts, tables, pictures."""
    folder = _folder(run.store, run.plan.name, "matrix")
    own = f".{run.id}-{run.times}"
    before = sorted(path.name for path in matching(folder, f"{FILE}.*"))
    step = next((place for place, name in enumerate(before) if name.endswith(own)), len(before))
    made = [_scalars({**_win_rates(run.tables["matrix"]), **_numbers("grid", run.summary)}), _text("about", run.config)]
    made += [_table(name, rows) for name, rows in run.tables.items()]
    made += [_text(f"left_out/{what}", why) for what, why in run.left_out.items()]
    made += [_image(path) for name in PICTURES if (path := run.folder / f"{name}.png").exists()]
    _write(folder / f"{FILE}.{step:06d}{own}", ((step, summary) for summary in made), time.time())


def _folder(store: "Store", grid: str, name: str) -> Path:
    """GRID/judge_de_tr_seed=1, of `judge[de, tr] seed=1`; of a long name its beginning and a hash."""
    safe = re.sub(r"[^\w.+=-]+", "_", name).strip("_")
    short = safe if len(safe.encode()) <= 255 else f"{safe[:60]}_{sha256(name.encode()).hexdigest()[:8]}"
    return store.root / "tracking" / "tensorboard" / grid / short


def _numbers(group: str, values: Mapping[str, Any]) -> dict[str, float]:
    return {f"{group}/{name}": value for name, value in values.items() if isinstance(value, (int, float))}


def _win_rates(rows: "Rows") -> dict[str, float]:
    """`win_rate/de-tr`, in percent, of each cell of the matrix, with the ends of its interval."""
    from xling.analysis.matrix.names import told_apart

    at, found = rows.columns.index("win_rate"), dict[str, float]()
    places = told_apart([dict(zip(rows.columns[:at], row, strict=False)) for row in rows.rows])
    for place, row in zip(places, rows.rows, strict=True):
        cell = "-".join(filter(None, place.values()))
        if row[at] is not None:
            found |= {f"win_rate{end}/{cell}": row[at + i] for i, end in enumerate(("", "_low", "_high"))}
    return found


def _scalars(values: Mapping[str, float]) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])


def _text(tag: str, what: str | Mapping[str, Any]) -> Any:
    """Markdown; a mapping as JSON."""
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto

    text = what if isinstance(what, str) else f"```\n{json.dumps(what, indent=1, ensure_ascii=False, default=str)}\n```"
    plugin = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    tensor = TensorProto(dtype="DT_STRING", string_val=[text.encode()])
    return Summary(value=[Summary.Value(tag=tag, metadata=plugin, tensor=tensor)])


def _table(tag: str, rows: "Rows") -> Any:
    from xling.report.tables.markdown import escaped

    lines = [rows.columns, ["---"] * len(rows.columns), *rows.rows[:MOST_ROWS]]
    shown = [" | ".join(escaped("" if cell is None else str(cell)) for cell in line) for line in lines]
    return _text(tag, "\n".join([*(f"| {line} |" for line in shown), f"\nrows: {len(rows.rows)}"]))


def _image(path: Path) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary

    png = path.read_bytes()
    width, height = struct.unpack(">II", png[16:24])
    image = Summary.Image(width=width, height=height, encoded_image_string=png)
    return Summary(value=[Summary.Value(tag=f"images/{path.stem}", image=image)])


def _write(path: Path, events: Iterable[tuple[int, Any]], when: float) -> None:
    """One file of (step, summary), at a time in seconds since 1970. What a kill leaves has no name that is read."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    writer = RecordWriter(content := io.BytesIO())
    writer.write(Event(wall_time=when, file_version="brain.Event:2").SerializeToString())
    for step, summary in events:
        writer.write(Event(wall_time=when, step=step, summary=summary).SerializeToString())
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(part := path.with_name(f"part-{secrets.token_hex(4)}"), content.getvalue())
    part.replace(path)
