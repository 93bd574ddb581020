"""README.md of an export: a card in the hub's form, with where every number and byte comes from."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xling import __version__
from xling.errors import ConfigError, did_you_mean, shown
from xling.grid.records import Done, Sheet
from xling.models.hub import is_repository

PAPER = "https://arxiv.org/abs/2404.12318"
# The hub takes these in the head of a card and refuses the upload of any other.
LICENCES = tuple(
    """
    afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
    bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
    cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0
    etalab-2.0 eupl-1.1 eupl-1.2 fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 grok2-community
    h-research intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4
    lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openrail openrail++ osl-3.0 other pddl postgresql unknown
    unlicense wtfpl zlib
""".split()  # noqa: SIM905
)
DATA = (".csv", ".gz", ".json", ".jsonl", ".parquet", ".py", ".tsv", ".txt", ".xlsx", ".yaml", ".yml", ".zip")
CITE = "[Reuse Your Rewards: Reward Model Transfer for Zero-Shot Cross-Lingual Alignment](" + PAPER + ")"


def head(fields: Mapping[str, Any]) -> str:
    """YAML between dashes: JSON's values are YAML's. Fields without a value are left out."""
    kept = {name: value for name, value in fields.items() if value not in (None, "", [])}
    return "\n".join(
        ["---", *(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in kept.items()), "---"]
    )


def check_licence(named: str | None) -> None:
    """ConfigError for what the hub does not take, which it would say when the repository is there already."""
    if named is not None and named not in LICENCES:
        guess = did_you_mean(named.lower(), LICENCES)
        raise ConfigError(
            f"--license {shown(named)} is no identifier of the hub.{guess} It takes, among {len(LICENCES)}: "
            "apache-2.0, mit, cc-by-4.0, cc-by-sa-4.0, gemma, llama3.1, and other for what has none."
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
        value = re.sub(rf"(?<![\w/.-])(?:~[\w.-]*|\.{{1,2}})?/(?:{name}/)*({name})", r"\1", value)
        key, equals, said = value.rpartition("=")
        return key + equals + re.sub(r"[^\s,:'\"\[\]{}()]+", _last_name, said) if said and " " not in said else value
    if isinstance(value, Mapping):
        return {name: private(one) for name, one in value.items()}
    return [private(one) for one in value] if isinstance(value, list | tuple) else value


def _last_name(found: re.Match[str]) -> str:
    """Of a path from where the command was typed its last name; owner/name of the hub stays."""
    word = found[0]
    folder = "/" in word and (not is_repository(word) or word.endswith(DATA))
    return Path(word).name if folder else word


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
        low, high = row["win_rate_low"], row["win_rate_high"]
        interval = f"{low:.1f} to {high:.1f}" if low == low else ""  # of a single document there is none
        numbers = [f"{row['win_rate']:.1f}", interval, f"{row['n']:.0f}", f"{row['seeds']:.0f}"]
        lines.append("| " + " | ".join([*(str(row[axis]) for axis in axes), *numbers]) + " |")
    return lines
