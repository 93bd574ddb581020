"""All analyses of a grid or of the paper's published matrices, by name.

grid_findings(store, "embedded")          # of what stands in the store now
findings_of(grid_entries(matrix, draws))  # of a grid that has just been folded
paper_findings()
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from xling.analysis.findings.cells import accuracy_vs_win, decomposition, effects, kl_vs_win
from xling.analysis.findings.choosing import choice, recommendation
from xling.analysis.findings.sources import (
    cross_vs_home,
    home_differences,
    judge_ranking,
    power,
    source_ranking,
)
from xling.analysis.items.generalisation import generalisation
from xling.analysis.items.length_rule import length_rule
from xling.analysis.items.regimes import sft_data, translate_train_cells
from xling.analysis.items.within_prompt import within_prompt
from xling.analysis.items.word_effects import bag_of_words
from xling.analysis.languages import has_uriel, language_features, likeness, uriel_features, wals_features
from xling.analysis.matrix.fold_grid import fold_grid
from xling.analysis.paper.published import (
    best_sources,
    bilingual,
    instance_agreement,
    no_target_sft,
    paper_entries,
    people_and_models,
    rm_accuracy,
    translate_train,
)
from xling.analysis.tidy.entries import Draws, Entries, grid_entries
from xling.analysis.tidy.finding import Finding
from xling.analysis.tidy.unlabelled import unlabelled
from xling.errors import ConfigError, shown
from xling.grid.store import Store
from xling.measures.own import fault_in, located, own_function, title_of

Analysis = Callable[[Entries], Finding]
OF_ENTRIES: dict[str, Analysis] = {
    "source_ranking": source_ranking,
    "judge_ranking": judge_ranking,
    "cross_vs_home": cross_vs_home,
    "home_differences": home_differences,
    "accuracy_vs_win": accuracy_vs_win,
    "kl_vs_win": kl_vs_win,
    "decomposition": decomposition,
    "effects": effects,
    "choice": choice,
    "recommendation": recommendation,
    "power": power,
}


# Those that read a grid's files again: seconds for a small grid, a minute for 10,000 cells (docs/speed.md).
OF_ITEMS: dict[str, Callable[[Store, str], list[Finding]]] = {
    "within_prompt": within_prompt,
    "bag_of_words": bag_of_words,
    "length_rule": length_rule,
    "generalisation": generalisation,
    "translate_train_cells": translate_train_cells,
    "sft_data": sft_data,
}
LANGUAGES = "language_features"  # needs a package or a folder: by default where there is one
OF_PAPER: dict[str, Callable[[], Finding]] = {
    "best_sources": lambda: best_sources(paper_entries()),
    "translate_train": translate_train,
    "bilingual": bilingual,
    "no_target_sft": no_target_sft,
    "rm_accuracy": rm_accuracy,
    "people_and_models": lambda: people_and_models(paper_entries()),
    "instance_agreement": instance_agreement,
}


def grid_findings(store: Store, name: str, only: Sequence[str] = (), wals: Path | None = None) -> list[Finding]:
    """Every analysis of a grid, or those named, the user's own by FILE:FUNCTION; `wals`: a folder (languages.py).

    ConfigError: no such grid or analysis.
    """
    own = [located(one, Path.cwd()) for one in only if ":" in one]
    known = [one for one in only if ":" not in one]
    wanted = chosen(known, [*OF_ENTRIES, *OF_ITEMS, LANGUAGES]) if known or not own else []
    found: list[Finding] = []
    entries: Entries | None = None
    if own or any(analysis not in OF_ITEMS for analysis in wanted):
        entries = known_entries(store, name, wals)
        of_entries = [one for one in wanted if one in OF_ENTRIES]
        found += findings_of(entries, of_entries) if of_entries else []
        found += [_own_finding(entries, one) for one in own]
    for analysis in wanted:
        if analysis in OF_ITEMS:
            found += OF_ITEMS[analysis](store, name)
    return found + (_of_languages(entries, only, wals) if entries is not None and LANGUAGES in wanted else [])


def known_entries(store: Store, name: str, wals: Path | None = None, new: str = "") -> Entries:
    """The entries of a grid's matrix, with what is known of its languages, and of `new`, without their labels."""
    draws = Draws()
    entries = grid_entries(fold_grid(store, name, draws.add), draws, unlabelled(store, name))
    if wals is None and not has_uriel():
        return entries
    known = {"typology": likeness(_features(entries, wals, new)), **entries.unlabelled.likeness}
    return replace(entries, unlabelled=replace(entries.unlabelled, likeness=known))


def choices(store: Store, name: str, new: str = "", wals: Path | None = None) -> list[Finding]:
    """What to use for targets without labels, `new` ones too, and what that costs: as `grid_findings` says it."""
    entries = known_entries(store, name, wals, new)
    return [choice(entries, new), recommendation(entries)]


def _own_finding(entries: Entries, named: str) -> Finding:
    """Finding of a user's own function (FILE:FUNCTION), which takes Entries and returns a Finding or a DataFrame."""
    file, function = own_function(named)
    name = named.rpartition(":")[2]
    try:
        said = function(entries)
    except Exception as error:
        raise ConfigError(f"The analysis {name} failed {fault_in(error, file)}.") from error
    if isinstance(said, pd.DataFrame):
        return Finding(name, title_of(function, name), said)
    if not isinstance(said, Finding):
        raise ConfigError(
            f"The analysis {name} of {file} gave {shown(said)}: it must give a pandas DataFrame, or a Finding of "
            "xling/analysis/tidy/finding.py."
        )
    return said


def _of_languages(entries: Entries, only: Sequence[str], wals: Path | None) -> list[Finding]:
    if LANGUAGES not in only and wals is None and not has_uriel():
        return []
    return language_features(entries.table, _features(entries, wals), entries.axes)


def _features(entries: Entries, wals: Path | None, new: str = "") -> pd.DataFrame:
    langs = sorted({lang for column in ("source_lang", "target_lang") for lang in entries.table[column]} | {new} - {""})
    return uriel_features(langs) if wals is None else wals_features(wals, langs)


def findings_of(entries: Entries, only: Sequence[str] = ()) -> list[Finding]:
    """Findings computed from the matrix alone, without reading a grid's files again."""
    findings = [OF_ENTRIES[name](entries) for name in chosen(only, list(OF_ENTRIES))]
    nothing = ("There is no entry with a source language, only references.",)
    return [replace(finding, left_out=nothing) if entries.table.empty else finding for finding in findings]


def paper_findings(only: Sequence[str] = (), wals: Path | None = None) -> list[Finding]:
    """The same of the paper's published matrices, and what its other tables say."""
    wanted, entries = chosen(only, [*OF_ENTRIES, *OF_PAPER, LANGUAGES]), paper_entries()
    plain = [name for name in wanted if name != LANGUAGES]
    found = [OF_ENTRIES[name](entries) if name in OF_ENTRIES else OF_PAPER[name]() for name in plain]
    return found + (_of_languages(entries, only, wals) if LANGUAGES in wanted else [])


def chosen(only: Sequence[str], known: Sequence[str]) -> list[str]:
    """The names asked for in the order of `known`; all of them where none is asked for. ConfigError: unknown."""
    unknown = [name for name in only if name not in known]
    if unknown:
        raise ConfigError(f"There is no analysis '{unknown[0]}' here. Type --only with some of: {', '.join(known)}.")
    return [name for name in known if not only or name in only]
