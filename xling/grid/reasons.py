"""Why a stage has to run: what differs between its spec and the nearest result that is already stored."""

from collections.abc import Iterable, Iterator, Mapping

from xling.grid.records import Sheet
from xling.grid.stage import DATA, WHERE, Json, Stage, canonical_json
from xling.grid.store import Store


def differences(old: Json, new: Json, path: str = "") -> Iterator[str]:
    """`policy.n 16 -> 64` for every leaf that differs, in order of path; lists count as leaves."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted(old.keys() | new.keys()):
            inner = f"{path}.{name}" if path else name
            yield from differences(old.get(name, _ABSENT), new.get(name, _ABSENT), inner)
    elif canonical_json(_plain(old)) != canonical_json(_plain(new)):
        yield f"{path} {_short(old)} -> {_short(new)}"


class _Absent:
    """A leaf that is not there; None is a value."""


_ABSENT = _Absent()


def _plain(value: Json) -> Json:
    return {"absent": True} if value is _ABSENT else value


def _short(value: Json) -> str:
    if value is _ABSENT:
        return "(absent)"
    text = value if isinstance(value, str) else canonical_json(value).decode()
    return text if len(text) <= 40 else text[:37] + "..."


class Neighbours:
    """Stored results of one kind by label, without the plan's own: those are other cells, not older specs."""

    def __init__(self, store: Store, kind: str, keys: Iterable[str]) -> None:
        self._by_label: dict[str, list[Sheet]] = {}
        for key in sorted(keys):
            sheet = store.sheet(kind, key)
            if sheet is not None:
                self._by_label.setdefault(sheet.label, []).append(sheet)

    def reason(self, stage: Stage, running: Mapping[str, bool]) -> str:
        """`running` says of the plan's keys whether they are going to run."""
        found = [_compare(sheet, stage) for sheet in self._by_label.get(stage.label, ())]
        if not found:
            return "missing"
        changed, parents = min(found, key=lambda pair: (len(pair[0]), len(pair[1])))
        if other := [one for one in changed if one.startswith("task.name ")]:
            return f"spec changed: {other[0]}"  # its settings are others, too, and say nothing
        if changed:
            more = f" (and {len(changed) - 3} more)" if len(changed) > 3 else ""
            if all(one.startswith("data: ") for one in changed):
                return f"data changed: {'; '.join(one.removeprefix('data: ') for one in changed[:3])}{more}"
            return f"spec changed: {', '.join(changed[:3])}{more}"
        if not parents:
            return "missing"
        runs = [role for role in parents if role in stage.parents and running.get(stage.parents[role].key)]
        role = (runs or parents)[0]
        label = stage.parents[role].label if role in stage.parents else role
        return f"parent will run: {label}" if runs else f"parent changed: {label}"


def _compare(sheet: Sheet, stage: Stage) -> tuple[list[str], list[str]]:
    """(changes of the spec, roles whose parent is another)."""
    changed = [one for one in differences(sheet.spec, stage.spec) if not one.startswith(f"{WHERE}.")]
    if rows := _rows(sheet.spec.get(WHERE, {}).get(DATA), stage.spec.get(WHERE, {}).get(DATA)):
        changed = [*rows, *(one for one in changed if not one.startswith("digest "))]
    if sheet.version != stage.version:
        changed.insert(0, f"version {sheet.version} -> {stage.version}")
    old = {role: parent.key for role, parent in sheet.parents.items()}
    new = {role: parent.key for role, parent in stage.parents.items()}
    return changed, [role for role in sorted(old.keys() | new.keys()) if old.get(role) != new.get(role)]


def _rows(old: Mapping[str, Json] | None, new: Mapping[str, Json] | None) -> list[str]:
    """What is other data than it was: `data: en demonstrations, train: 3 rows more`."""
    found = []
    for name, (before, digest) in sorted((old or {}).items()):
        rows, other = (new or {}).get(name, (before, digest))
        if other != digest:
            count = f"{abs(rows - before)} row{'s' if abs(rows - before) != 1 else ''}"
            more = "more" if rows > before else "fewer"
            found.append(f"data: {name}: {f'{count} {more}' if rows != before else 'other rows'}")
    return found
