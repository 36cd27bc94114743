"""Progress speaks where somebody sits, and leaves nothing behind where nobody does."""

from __future__ import annotations

import sys

import pytest

from lib import progress
from lib.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    return now


def test_a_log_file_stays_clean(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(2, "measuring") as seen:
        seen.advance("vllm")
    assert capsys.readouterr().out == ""


def test_a_terminal_sees_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with Progress(3, "measuring") as seen:
        clock[0] = 10
        seen.advance("vllm, 32 tokens")
    said = capsys.readouterr().out.split("\r\033[K")
    assert said == ["", "measuring 0/3 ", "measuring 1/3 vllm, 32 tokens · about 20 s left", ""]


def test_nothing_to_do_says_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with Progress(0, "measuring"):
        pass
    assert capsys.readouterr().out == ""


def test_a_notebook_shows_one_line_and_keeps_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    import IPython.display

    cleared: list[bool] = []
    monkeypatch.setattr(IPython.display, "clear_output", lambda wait=False: cleared.append(wait))
    monkeypatch.setattr(progress, "_in_notebook", lambda: True)
    with Progress(2, "measuring") as seen:
        clock[0] = 5
        seen.advance("llamacpp")
    assert capsys.readouterr().out == "measuring 0/2 \nmeasuring 1/2 llamacpp · about 5 s left\n"
    assert cleared == [True, True, False], "every line replaces the last, and the last goes when the block ends"


@pytest.mark.parametrize(("lasts_s", "told"), [(12.4, "12 s"), (89.0, "89 s"), (600.0, "10 min"), (9000.0, "2.5 h")])
def test_times_are_told_as_people_do(lasts_s: float, told: str) -> None:
    assert progress.told(lasts_s) == told
