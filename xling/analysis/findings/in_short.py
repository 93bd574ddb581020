"""The findings of a matrix in a few sentences, for people with a deadline: every number is one of the tables'."""

from collections.abc import Mapping, Sequence

import pandas as pd

from xling.analysis.findings.choosing import NEW
from xling.analysis.matrix.verdicts import many
from xling.analysis.tidy.entries import EVERY
from xling.analysis.tidy.finding import Finding

_MOST_PANELS = 6
_SURE = 0.95  # share of draws


def in_short(findings: Sequence[Finding]) -> list[str]:
    """A line a matrix; of many the largest ones. Nothing where the findings that it is made of are not there."""
    tables = {finding.name: finding.table for finding in findings}
    ranking = tables.get("source_ranking", pd.DataFrame())
    if ranking.empty or "target_lang" not in ranking:
        return []
    axes = list(ranking.columns[: list(ranking.columns).index("target_lang")])
    panels = ranking[axes].drop_duplicates()
    sizes = panels.apply(lambda panel: len(_panel(ranking, panel.to_dict())), axis=1)
    largest = panels[panels.index.isin(sizes.nlargest(_MOST_PANELS).index)]
    varying = [axis for axis in axes if panels[axis].nunique() > 1]
    lines, used = [], list[str]()
    for _, panel in largest.iterrows():
        own = {name: _of(table, panel.to_dict()) for name, table in tables.items() if "target_lang" in table}
        cells = _panel(tables.get("home_differences", pd.DataFrame()), panel.to_dict())
        use = "" if (found := use_of(_panel(tables.get("choice", pd.DataFrame()), panel.to_dict()))) in used else found
        used.append(found)
        said = [part for part in (_best(own), _home(own, cells), _rules(own), use, _needs(own)) if part]
        if said:
            title = ", ".join(str(panel[axis]) for axis in varying if panel[axis])
            lines.append((f"{title}: " if title else "") + " ".join(said))
    if len(panels) > _MOST_PANELS:
        more = len(panels) - _MOST_PANELS
        lines.append(f"And {more} {'matrix' if more == 1 else 'matrices'} more.")
    return lines


def _panel(table: pd.DataFrame, panel: Mapping[str, str]) -> pd.DataFrame:
    """A panel's rows of a table."""
    for axis, value in panel.items() if len(table) else ():
        table = table[table[axis] == value] if axis in table else table  # a choice is over reward models
    return table


def _of(table: pd.DataFrame, panel: Mapping[str, str]) -> pd.DataFrame:
    """A panel's rows of a table, over all targets."""
    rows = _panel(table, panel)
    return rows[rows["target_lang"] == EVERY] if "target_lang" in rows else rows


Tables = Mapping[str, pd.DataFrame]


def _best(own: Tables) -> str:
    rows = own["source_ranking"].dropna(subset=["p_best"]).sort_values("p_best", ascending=False)
    if rows.empty:
        return ""
    first = rows.iloc[0]
    if first["p_best"] >= _SURE:
        return f"{first['source_lang']} is the best source over all targets (in {first['p_best']:.0%} of draws)."
    rivals = rows[rows["p_best"] >= 1 - _SURE]
    shares = ", ".join(f"{row.source_lang} {row.p_best:.0%}" for row in rivals.itertuples())
    return f"No source is surely the best over all targets (best in so many draws: {shares})."


def _home(own: Tables, cells: pd.DataFrame) -> str:
    """cells: every difference to home. Of many some are settled by chance, so Holm's correction is said, too."""
    rows = own.get("cross_vs_home", pd.DataFrame())
    if len(rows) != 1:
        return ""
    row = rows.iloc[0]
    kept = ""
    if len(cells):
        settled = (cells["difference_low"] > 0) | (cells["difference_high"] < 0)
        kept = f"; {(settled & (cells['p_holm'] <= 1 - _SURE)).sum()} of these after Holm's correction"
    return (
        f"Foreign sources beat home in {row['better']:.0f} of {many(int(row['foreign']), 'cell')} "
        f"({row['settled_better']:.0f} settled and {row['settled_worse']:.0f} the other way, each by itself{kept})."
    )


def _rules(own: Tables) -> str:
    rows = own.get("recommendation", pd.DataFrame())
    if rows.empty:
        return ""
    names = {"elsewhere": "what does best elsewhere", "english": "English", "home": "home", "random": "any foreign one"}
    rows = rows[rows["rule"].isin(names)].dropna(subset=["regret", "regret_low", "regret_high"]).round({"regret": 1})
    costs = [f"{names[row.rule]} {row.regret + 0.0:+.1f} [{row.regret_low:+.1f}..{row.regret_high:+.1f}]"
             for row in rows.itertuples()]  # fmt: skip
    below = " Below 0: better than choosing by half of the target's own prompts." if (rows["regret"] < 0).any() else ""
    return f"What picking a source costs, in points: {', '.join(costs)}.{below}" if costs else ""


def use_of(rows: pd.DataFrame) -> str:
    """What a `choice` says of a language that is not in the grid, or of the one that it is about."""
    if rows.empty:
        return ""
    row = rows.iloc[-1]
    lang = "a language without labels" if row["target_lang"] == NEW else row["target_lang"]
    lead = f"{row['over_none']:+.1f} [{row['over_none_low']:+.1f}..{row['over_none_high']:+.1f}]"
    over = f"points over {row['none']} on {many(int(row['targets']), 'other target')}"
    if row["use"] == "source":
        return f"For {lang} use {row['pick']}, by the rule `{row['rule']}`: {lead} {over}."
    if row["over_none_low"] > 0:
        return (
            f"For {lang} use none of the sources but {row['pick']}, as the rule `{row['rule']}` does ({lead} {over})."
        )
    rule = f"`{row['rule']}`, the best rule on other targets,"
    return f"For {lang} use none of the sources, but {row['pick']}: {rule} has {lead} {over}."


def _needs(own: Tables) -> str:
    rows = own.get("power", pd.DataFrame())
    rows = rows[rows["difference"] == "2 points"].dropna(subset=["needed"]) if len(rows) else rows
    units = {"prompts": "prompts a target", "seeds": "seeds"}
    needs = [f"{row.needed:,.0f} {units[row.unit]} (here {row.have:,.0f})" for row in rows.itertuples()]
    takes = "Telling two sources apart that differ by 2 points takes, with 80 % power,"
    return f"{takes} {' or '.join(needs)}." if needs else ""
