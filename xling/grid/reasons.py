"""Why a stage has to run: what differs between its spec and the nearest result that the grid had as last planned."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from xling.grid.labels import own_label
from xling.grid.records import Sheet
from xling.grid.stage import DATA, WHERE, Json, Stage, canonical_json
from xling.grid.store import Store


def differences(old: Json, new: Json, path: str = "") -> Iterator[str]:
    """`policy.n 16 -> 64` for every leaf that differs, in order of path; lists count as leaves."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted(old.keys() | new.keys()):
            inner = f"{path}.{name}" if path else name
            if name in old and name in new:
                yield from differences(old[name], new[name], inner)
            else:
                before, after = (_shown_value(spec[name]) if name in spec else "(absent)" for spec in (old, new))
                yield f"{inner} {before} -> {after}"
    elif canonical_json(old) != canonical_json(new):
        yield f"{path} {_shown_value(old)} -> {_shown_value(new)}"


def _shown_value(value: Json) -> str:
    text = value if isinstance(value, str) else canonical_json(value).decode()
    return text if len(text) <= 40 else text[:37] + "..."


class Neighbours:
    """Stored results of one kind by label, of the grid's last plan and not of this one: they are older specs of it."""

    def __init__(self, store: Store, kind: str, keys: Iterable[str]) -> None:
        self._by_label: dict[str, list[Sheet]] = {}
        for key in sorted(keys):
            sheet = store.sheet(kind, key)
            if sheet is not None:
                self._by_label.setdefault(own_label(sheet.label), []).append(sheet)

    def reason(self, stage: Stage, runs: Callable[[str], bool]) -> str:
        """runs: whether it was decided of a stage above, by its key, that it runs."""
        found = [_changes(sheet, stage) for sheet in self._by_label.get(own_label(stage.label), ())]
        if not found:
            return "missing"
        changed, parents = min(found, key=lambda pair: (len(pair[0]), len(pair[1])))
        changed = _without_settings_of_others(changed)
        if changed:
            more = f" (and {len(changed) - 3} more)" if len(changed) > 3 else ""
            if all(one.startswith("data: ") for one in changed):
                return f"data changed: {'; '.join(one.removeprefix('data: ') for one in changed[:3])}{more}"
            return f"spec changed: {', '.join(changed[:3])}{more}"
        if not parents:
            return "missing"
        anew = [r for r in parents if r in stage.parents and runs(stage.parents[r].key)]
        role = (anew or parents)[0]
        label = stage.parents[role].label if role in stage.parents else role
        return f"parent will run: {label}" if anew else f"parent changed: {label}"


def _without_settings_of_others(changed: Sequence[str]) -> list[str]:
    """Changes without the settings of an option that is another one now: of `rm.name`, they say nothing besides."""
    names = [one for one in changed if one.partition(" ")[0].endswith(".name")]
    if task := [one for one in names if one.startswith("task.name ")]:
        return task  # its rows are others as well
    groups = tuple(one.partition(" ")[0].removesuffix("name") for one in names)
    return [*names, *(one for one in changed if not one.startswith(groups))]


def _changes(sheet: Sheet, stage: Stage) -> tuple[list[str], list[str]]:
    """(changes of the spec, roles whose parent is another)."""
    changed = [one for one in differences(sheet.spec, stage.spec) if not one.startswith(f"{WHERE}.")]
    if rows := _changed_rows(sheet.spec.get(WHERE, {}).get(DATA), stage.spec.get(WHERE, {}).get(DATA)):
        changed = [*rows, *(one for one in changed if not one.startswith("digest "))]
    if sheet.version != stage.version:
        changed.insert(0, f"version {sheet.version} -> {stage.version}")
    old = {role: parent.key for role, parent in sheet.parents.items()}
    new = {role: parent.key for role, parent in stage.parents.items()}
    return changed, [role for role in sorted(old.keys() | new.keys()) if old.get(role) != new.get(role)]


def _changed_rows(old: Mapping[str, Json] | None, new: Mapping[str, Json] | None) -> list[str]:
    """Data that changed: `data: en demonstrations, train: 3 rows more`."""
    found = []
    for name, (before, digest) in sorted((old or {}).items()):
        rows, other = (new or {}).get(name, (before, digest))
        if other != digest:
            count = f"{abs(rows - before)} row{'s' if abs(rows - before) != 1 else ''}"
            more = "more" if rows > before else "fewer"
            found.append(f"data: {name}: {f'{count} {more}' if rows != before else 'other rows'}")
    return found
