"""README.md of an export: a card in the hub's form, with where every number and byte comes from."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from xling import __version__
from xling.grid.records import Done, Sheet

PAPER = "https://arxiv.org/abs/2404.12318"
CITE = "[Reuse Your Rewards: Reward Model Transfer for Zero-Shot Cross-Lingual Alignment](" + PAPER + ")"


def head(fields: Mapping[str, Any]) -> str:
    """YAML between dashes: JSON's values are YAML's. Fields without a value are left out."""
    kept = {name: value for name, value in fields.items() if value not in (None, "", [])}
    return "\n".join(
        ["---", *(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in kept.items()), "---"]
    )


def licence(fields: dict[str, Any], named: str | None, what: str) -> list[str]:
    """Put the licence in the fields; what the card says of it."""
    if named:
        fields["license"] = named
        return []
    fields["license"] = "other"
    fields["license_name"] = "unknown"
    return ["## Licence", "", f"Not known to xling: {what}. `xling export ... --license ID` names it here."]


def model_card(title: str, fields: Mapping[str, Any], parts: Sequence[str]) -> str:
    return "\n".join([head(fields), "", f"# {title}", "", *parts, ""])


def provenance(sheet: Sheet, done: Done, command: Sequence[str], bases: Sequence[str]) -> list[str]:
    """How the result of a stage came about, to the digest of its data and the versions of what computed it."""
    run = done.run
    computed = {
        "stage": f"`{sheet.label}`, key `{done.key}`",
        "starts from": ", ".join(bases),
        "digest of its data": f"`{sheet.spec['digest']}`" if sheet.spec.get("digest") else "",
        "command": f"`{asked(command)}`" if command else "",
        "commit of xling": f"`{run.git}`" if run.git else "",
        "versions": ", ".join(f"{name} {version}" for name, version in run.versions.items()),
        "computed": f"{run.when}, on {run.device}, in {run.seconds:.0f} s",
        "paper": CITE,
    }
    lines = ["## Provenance", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in computed.items() if value]
    settings = {name: value for name, value in sheet.spec.items() if name not in ("where", "digest")}
    settings = private(settings)
    return [*lines, "", "## Settings", "", "```json", json.dumps(settings, indent=2, ensure_ascii=False), "```"]


def private(value: Any) -> Any:
    """Settings and commands without the folders of this machine and servers near it: of a path its last name."""
    if isinstance(value, str):
        value = re.sub(r"\b\w+://[^\s,'\"]*", "URL", value)
        begins = re.match(r"(?:[^\s=]*=)?['\"\[]*(?:~[\w.-]*|\.{1,2})?/", value)  # then spaces are part of it
        name = r"[^,'\"/]*" if begins else r"[^\s,'\"/]*"
        return re.sub(rf"(?<![\w/.-])(?:~[\w.-]*|\.{{1,2}})?/(?:{name}/)*({name})", r"\1", value)
    if isinstance(value, Mapping):
        return {name: private(one) for name, one in value.items()}
    return [private(one) for one in value] if isinstance(value, list | tuple) else value


def asked(command: Sequence[str]) -> str:
    """The grid's command as somebody else would type it."""
    return shlex.join(["xling", "run", *(private(word) for word in command if not word.startswith("root="))])


def made_by() -> str:
    return f"Made by xling {__version__} (`xling export`)."


def results(rows: Sequence[Mapping[str, Any]], axes: Sequence[str]) -> list[str]:
    """Cells of the matrix that a model was used in: `rows` are those of `xling.Grid.cells`."""
    if not rows:
        return ["No cell of the grid's matrix that uses it is finished (`xling reduce` folds it)."]
    lines = [f"| {' | '.join(axes)} | win rate, % | 95 % interval | prompts | seeds |", "|---" * (len(axes) + 4) + "|"]
    for row in rows:
        interval = f"{row['win_rate_low']:.1f} to {row['win_rate_high']:.1f}"
        numbers = [f"{row['win_rate']:.1f}", interval, f"{row['n']:.0f}", f"{row['seeds']:.0f}"]
        lines.append("| " + " | ".join([*(str(row[axis]) for axis in axes), *numbers]) + " |")
    return lines
