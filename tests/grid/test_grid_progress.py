"""What a run shows while it runs."""

import io
import re

import pytest
from rich.console import Console

from xling.console import duration, size
from xling.runners.local.progress import Live, Plain, Silent, display_for


def test_without_a_terminal_lines_are_few_and_failures_are_all_there(capsys: pytest.CaptureFixture[str]) -> None:
    display = Plain(total=100)
    for number in range(50):
        display.finished(f"pool{number}", 1.25)
        display.tick(99 - number)
    display.failed("sft", "ValueError: no")
    display.tick(0)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "pool0 done in 1.2 s (1 of 100 stages)",
        "sft FAILED: ValueError: no",
        "pool49 done in 1.2 s (100 of 100 stages)",
    ]


def test_on_a_terminal_the_grid_and_each_running_stage_have_a_bar() -> None:
    file = io.StringIO()
    display = Live(Console(file=file, force_terminal=True, width=100), total=10)
    display.started("sft[de]")
    display.progress("sft[de]", 3, 7)
    display.tick(8)
    display.failed("pool[[x]", "it [broke]")
    display.close()
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", file.getvalue())
    assert "sft[de]" in shown and "3/7" in shown and "2/10" in shown
    assert "pool[[x] failed:" in shown and "it [broke]" in shown


def test_nothing_is_shown_when_nothing_shall_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(display_for(1, show=False), Silent)
    display_for(1, show=False).failed("a", "b")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.001, "<0.01 s"), (0.25, "0.25 s"), (9.96, "10 s"), (75, "75 s"), (200, "3 min 20 s"), (18720, "5 h 12 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_sizes() -> None:
    assert [size(count) for count in (0, 999, 1500, 2_500_000_000)] == ["0 B", "999 B", "1.5 kB", "2.5 GB"]
