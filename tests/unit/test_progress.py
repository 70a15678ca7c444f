"""Progress: lines where there is no terminal, a bar on one."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from retainfirst import progress
from retainfirst.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless it is set."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def terminal(monkeypatch):
    """Make standard error a terminal; what is written to it."""
    written = io.StringIO()

    def console(**options):
        del options["stderr"]
        return Console(file=written, force_terminal=True, width=100, **options)

    monkeypatch.setattr(progress, "Console", console)
    return written


def test_a_line_at_the_start_of_each_stage_and_then_rarely(clock, capsys):
    with Progress(seconds=30.0) as bar:
        bar.show("loading")
        bar.show("loading")
        bar.show("steps", 0, 40)
        clock[0] += 10
        bar.show("steps", 10, 40, "loss 0.5")
        clock[0] += 20
        bar.show("steps", 20, 40, "loss 0.4")
        clock[0] += 1
        bar.show("steps", 40, 40, "loss 0.1")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "loading",
        "steps 0/40",
        "steps 20/40, loss 0.4, 0:00:30 left",
        "steps 40/40, loss 0.1, 0:00:00 left",
    ]


def test_the_time_left_counts_from_where_a_resumed_stage_began(clock, capsys):
    with Progress(seconds=5.0) as bar:
        bar.show("steps", 90, 100)
        clock[0] += 10
        bar.show("steps", 95, 100)
    assert capsys.readouterr().err.splitlines()[-1] == "steps 95/100, 0:00:10 left"


def test_a_stage_without_work_is_not_shown(capsys):
    with Progress() as bar:
        bar.show("nothing", 0, 0)
    assert capsys.readouterr().err == ""


def test_brackets_in_a_stage_are_no_markup(capsys):
    with Progress() as bar:
        bar.show("rules[bold].py", note="[red]")
    assert capsys.readouterr().err == "rules[bold].py, [red]\n"


def test_a_bar_on_a_terminal_has_stage_count_time_and_note(terminal):
    with Progress() as bar:
        bar.show("loading[1]")
        bar.show("steps", 1, 4, "loss 0.5")
        bar._bars.refresh()
        shown = terminal.getvalue()
    for text in ("loading[1]", "steps", "1/4", "loss 0.5", "-:--:--"):
        assert text in shown
    assert "steps 1/4" not in shown, "no lines beside the bar"


def test_after_an_error_the_bar_is_gone(terminal):
    bar = Progress()

    def fail():
        with bar:
            bar.show("steps", 1, 4)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not bar._bars.live.is_started
    bar.stop()
