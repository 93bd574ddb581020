"""The few sentences of `xling analyse`: the findings' own numbers, of every matrix, and nothing where there is none."""

import numpy as np
import pandas as pd
from matrices import both, entries_of

from xling.analysis.catalogue import findings_of, paper_findings
from xling.analysis.findings.in_short import in_short
from xling.analysis.tidy.finding import Finding

VALUE = 60 + np.array([4.0, 0.0, -4.0])[:, None] + np.array([1.0, 0.0, -1.0])


def test_one_matrix_with_a_clear_winner():
    (line,) = in_short(findings_of(entries_of(VALUE, se=0.5)))
    assert line.startswith("de is the best source over all targets (in 100% of draws). Foreign sources beat home in ")
    assert (
        "beat home in 3 of 6 cells (3 settled and 3 the other way, each by itself; 6 of these after Holm's correction)."
        in line
    )
    assert "What picking a source costs, in points: what does best elsewhere" in line and "home +4.0" in line
    assert line.endswith(
        "Telling two sources apart that differ by 2 points takes, with 80 % power, 393 prompts a target (here 400)."
    )  # 7.849 * 200 / 4


def test_no_winner_and_several_matrices():
    entries = both(entries_of(VALUE * 0 + 60, se=1.0), entries_of(VALUE, se=0.5, seed=1, judge="llm"))
    gold, llm = in_short(findings_of(entries))
    assert gold.startswith("gold: No source is surely the best over all targets (best in so many draws: ")
    assert all(f"{lang} 3" in gold for lang in ("de", "en", "es"))  # a third each
    assert llm.startswith("llm: de is the best source")


def test_nothing_to_say():
    assert in_short([]) == []
    assert in_short([Finding("source_ranking", "another", pd.DataFrame({"source_lang": ["de"]}))]) == []
    assert in_short(findings_of(entries_of(VALUE[:1, :1], se=1.0))) == []
    assert in_short(findings_of(entries_of(VALUE * np.nan, se=1.0))) == []


def test_of_many_matrices_the_first_ones():
    lines = in_short(paper_findings(["source_ranking"]))
    assert len(lines) == 7 and lines[-1] == "And 5 matrices more."
