"""A round of the drill on its dashboards: scenario after scenario on one clock, with bands where the faults were."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pytest import approx

from lib import measured, press
from lib.monitoring import dashboards
from lib.monitoring.session import Session
from lib.panels import replayed
from lib.panels.draw import Band
from tests.monitoring import drilled
from tests.monitoring.drilled import drill


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    return drilled.begun(tmp_path, monkeypatch)


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(replayed.figures, "claim", lambda sentence, **values: said.append(sentence.format(**values)))
    monkeypatch.setattr(replayed.figures, "photo", lambda *_, **__: pytest.fail("a picture was shown"))
    return said


def answers(*t_s: float) -> pd.DataFrame:
    board = dashboards.ALL[0]
    panel = next(dashboards.query.panels(board))["id"]
    return pd.DataFrame([(board["uid"], panel, "A", "llm", at, 1.0) for at in t_s], columns=drilled.PANELS)


def round_of(s: Session) -> None:
    """In the round's clock: a fault at 5 s, a control at 35 s, another fault at 65 s. Kept in another order, and beside a second round."""
    drill(s, "slow", 0, began=1060.0, panels=answers(-1.0))
    drill(s, "nothing", 0, began=1030.0, control=True, panels=answers(0.0))
    drill(s, "cut", 0, began=1000.0, panels=answers(-5.0, 2.0))
    drill(s, "cut", 1, began=2000.0, panels=answers(7.0))


def test_scenarios_follow_each_other_on_one_clock(made: Session) -> None:
    round_of(made)
    one = replayed.of(made)
    assert one is not None
    assert one.answers["t_s"].tolist() == [0.0, 7.0, 35.0, 64.0]
    assert one.bands == (Band(5.0, 15.0, "cut"), Band(65.0, 75.0, "slow"))  # a control has none
    assert one.end_s == 85.0


def test_each_round_has_a_clock_of_its_own(made: Session) -> None:
    round_of(made)
    one = replayed.of(made, 1)
    assert one is not None and (one.answers["t_s"].tolist(), one.bands, one.end_s) == ([12.0], (Band(5.0, 15.0, "cut"),), 25.0)
    assert replayed.of(made, 2) is None


def test_without_a_round_a_line_says_so_and_no_page_is_written(made: Session, claims: list[str], tmp_path: Path) -> None:
    replayed.show(made, dashboards.ALL[0], "slug", "takeaway")
    assert claims == ["Nothing was drilled here, so the dashboard is empty."]
    assert replayed.write(made, tmp_path / "page" / "dashboards.html") is None and not (tmp_path / "page").exists()


def test_without_a_browser_a_line_says_so(made: Session, claims: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def picture(*_: Any, **__: Any) -> bytes:
        raise press.PrintFailed("there is no browser")

    round_of(made)
    monkeypatch.setattr(replayed.press, "picture", picture)
    replayed.show(made, dashboards.ALL[0], "slug", "takeaway")
    assert claims == [f"The dashboard {dashboards.ALL[0]['title']} could not be drawn: there is no browser"]


def test_the_picture_is_small_and_has_its_shape(made: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from PIL import Image

    asked: list[tuple[int, int]] = []
    photos: list[tuple[bytes, str, str, int]] = []

    def picture(fig: Any, *, width: int, height: int) -> bytes:
        asked.append((width, height))
        Image.new("RGBA", (2 * width, 2 * height)).save(png := io.BytesIO(), "PNG")
        return png.getvalue()

    round_of(made)
    monkeypatch.setattr(replayed.press, "picture", picture)
    monkeypatch.setattr(replayed.figures, "photo", lambda data, slug, takeaway, width: photos.append((data, slug, takeaway, width)))
    replayed.show(made, dashboards.ALL[0], "slug", "takeaway")
    ((width, height),), ((data, slug, takeaway, shown),) = asked, photos
    small = Image.open(io.BytesIO(data))
    assert (small.format, small.width, slug, takeaway, shown) == ("JPEG", replayed.SHOWN_PX, "slug", "takeaway", replayed.SHOWN_PX)
    assert small.height == approx(height * replayed.SHOWN_PX / width, abs=1)


def test_the_page_has_every_dashboard_and_the_run(made: Session, tmp_path: Path) -> None:
    round_of(made)
    assert replayed.write(made, tmp_path / "report" / "dashboards.html") == "dashboards.html"
    text = (tmp_path / "report" / "dashboards.html").read_text(encoding="utf-8")
    assert f"A drill, run {made.run.run_id}" in text and all(board["title"] in text for board in dashboards.ALL)


def test_the_recorded_round_is_on_one_clock() -> None:
    s = drilled.recorded()
    found = [one for one in measured.points(s.run, "drill") if one["round"] == 0]
    if not found:
        pytest.skip("no drill was recorded")
    told = replayed.of(s)
    assert told is not None
    began = min(one["facts"]["began_unix"] for one in found)
    faults = {one["scenario"]: one["facts"]["injected_unix"] - began for one in found if not one["facts"]["control"]}
    assert {band.label: band.start_s for band in told.bands} == approx(faults)
    ends = [one["facts"]["injected_unix"] + one["facts"]["ended_s"] - began for one in found]
    assert told.end_s == approx(max(ends)) and all(a.end_s < b.start_s for a, b in pairwise(told.bands))
    assert len(told.answers) == sum(len(measured.series(s.run, one, "panels")) for one in found)
    assert told.answers["t_s"].min() >= -1 and told.answers["t_s"].max() <= told.end_s + 1
