"""The results of `xling data check`, as tables for people and as JSON for machines."""

import msgspec
from rich import box
from rich.table import Table

from xling.analysis.statistics.intervals import Estimate
from xling.console import Console
from xling.planning.datacheck import Part, Report
from xling.report.tables.table import span


def print_report(report: Report, console: Console) -> None:
    """Two tables, a third where several people rated the same responses, and the notes."""
    datasets = any(part.dataset for part in report.parts)
    console.print(_parts(report, datasets))
    console.print(_languages(report))
    if any(whole.raters for whole in report.languages):
        console.print(_raters(report))
    for note in report.notes:
        console.print(f"- {note}", highlight=False, markup=False)


def json_text(report: Report) -> str:
    """The same, whole, with sorted keys."""
    return msgspec.json.format(msgspec.json.encode(report, order="sorted"), indent=1).decode()


def _parts(report: Report, datasets: bool) -> Table:
    published = any(part.published is not None for part in report.parts)
    table = Table(title=f"{report.task}: rows by use and split (lengths in characters: median / 95 %)", box=box.SIMPLE)
    names = ["lang", *(["dataset"] if datasets else []), "use", "split"]
    for name in names:
        table.add_column(name)
    for name in (
        "rows",
        *(["paper"] if published else []),
        "prompts",
        "groups",
        "prompt",
        "response",
        "balance",
        "dup.",
    ):
        table.add_column(name, justify="right")
    last = None
    for part in report.parts:
        if last not in (None, part.lang):
            table.add_section()
        shown = [part.lang if part.lang != last else "", *([part.dataset] if datasets else []), part.use, part.split]
        paper = ["" if part.published is None else str(part.published)] if published else []
        table.add_row(*shown, str(part.rows), *paper, str(part.prompts), str(part.groups), *_measures(part))
        last = part.lang
    return table


def _measures(part: Part) -> list[str]:
    response = "" if part.response_median is None else f"{part.response_median} / {part.response_p95}"
    balance = "" if part.balance is None else f"{part.balance:.0f} % {part.measure}"
    return [f"{part.prompt_median} / {part.prompt_p95}", response, balance, str(part.duplicates)]


def _rate(rate: Estimate | None) -> tuple[str, str]:
    return ("", "") if rate is None else (f"{rate.value:.1f} % {span(rate)}".strip(), str(rate.n))


def _languages(report: Report) -> Table:
    table = Table(title="Shared by splits, and responses that read as the language", box=box.SIMPLE)
    table.add_column("lang")
    names = (
        "shared groups",
        "shared prompts",
        "in language",
        "sampled",
        "references recognised",
        "n",
        "others read as it",
        "n",
    )
    for name in names:
        table.add_column(name, justify="right")
    for whole in report.languages:
        share = "" if whole.in_language is None else f"{whole.in_language:.0f} %"
        told = [text for rate in (whole.rates.recognised, whole.rates.mistaken) for text in _rate(rate)]
        table.add_row(whole.lang, str(whole.leaked_groups), str(whole.leaked_texts), share, str(whole.sampled), *told)
    return table


def _raters(report: Report) -> Table:
    table = Table(title="Agreement of those who rated the same responses", box=box.SIMPLE)
    table.add_column("lang")
    for name in ("Krippendorff's alpha", "scale", "responses", "ratings", "groups"):
        table.add_column(name, justify="right")
    for whole in report.languages:
        if (one := whole.raters) is not None:
            ends = "" if one.low is None else f" [{one.low:.2f}, {one.high:.2f}]"
            value = "none: all ratings are the same" if one.value is None else f"{one.value:.2f}{ends}"
            table.add_row(whole.lang, value, one.measure, str(one.responses), str(one.ratings), str(one.groups))
    return table
