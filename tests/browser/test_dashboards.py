"""The page of all dashboards as a reader meets it: from disk, without network, live, on a wide screen and on a phone."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from playwright.sync_api import Page, expect

from lib import panels
from lib.monitoring import dashboards
from lib.monitoring.dashboards.query import COLUMNS
from lib.monitoring.timing import DRILL


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every query answered by a step that a fault made, but for GPUs: there are none."""
    rows = [(query.dashboard, query.panel, query.ref, query.named({}) or "fraud", float(t),
             2.0 if "ALERTS" in query.expr else 0.5 if 20 < t < 40 else 0.1)
            for board in dashboards.ALL for query in panels.queries(board, timing=DRILL, step_s=1)
            for t in range(61) if "gpu:" not in query.expr]  # fmt: skip
    path = tmp_path_factory.mktemp("page") / "dashboards.html"
    path.write_text(panels.page(dashboards.ALL, pd.DataFrame(rows, columns=COLUMNS), start_s=0, end_s=60,
                                marks=[panels.Band(20, 40, "fault")]), encoding="utf-8")  # fmt: skip
    return path


def test_it_looks_like_a_dashboard(page: Page, html: Path) -> None:
    page.goto(html.as_uri())
    for board in dashboards.ALL:
        expect(page.locator(f"#{board['uid']} h2")).to_have_text(board["title"])
        assert page.locator(f"#{board['uid']} article").count() == len(list(dashboards.query.panels(board)))
    first = page.locator("#inference-services article")
    expect(first.nth(1).locator(".cells b")).to_have_text("10.00%")  # the last value, not the fault's
    boxes = [first.nth(n).bounding_box() for n in range(4)]
    assert all(boxes) and len({round(box["y"]) for box in boxes if box}) == 1  # numbers side by side on top
    assert [round(box["width"] / boxes[3]["width"]) for box in boxes if box and boxes[3]] == [2, 2, 2, 1]


def test_courses_are_live(page: Page, html: Path) -> None:
    page.goto(html.as_uri())
    (asked,) = [one for one in dashboards.query.panels(dashboards.ALL[0]) if one["title"] == "Age of a frame"]
    one = page.locator(f"#inference-services article[data-panel='{asked['id']}']")
    one.scroll_into_view_if_needed()
    expect(one.locator(".scatterlayer .trace")).to_have_count(1)
    expect(one.locator(".annotation", has_text="fault")).to_have_count(1)
    one.locator(".nsewdrag").hover(force=True)
    expect(one.locator(".hoverlayer")).to_contain_text("0.5")


def test_what_is_missing_says_why_and_what_is_there_is_explained(page: Page, html: Path) -> None:
    page.goto(html.as_uri())
    gpu = page.locator("#inference-machine article", has_text="GPU memory traffic")
    gpu.scroll_into_view_if_needed()
    expect(gpu.locator(".annotation")).to_have_text("only a dcgm-exporter tells")
    errors = page.locator("#inference-services article").nth(1)
    errors.locator("summary").click()
    expect(errors.get_by_text("Above 1 % the objective is missed")).to_be_visible()
    expect(errors.get_by_role("link", name="Runbook: ErrorBurst")).to_have_attribute("href", "monitoring/runbook.md#errorburst")


def test_links_lead_to_the_other_dashboards(page: Page, html: Path) -> None:
    page.goto(html.as_uri())
    page.locator("header").get_by_role("link", name="Cost").click()
    expect(page.locator("#inference-cost h2")).to_be_in_viewport()


@pytest.mark.parametrize("page", [{"viewport": {"width": 390, "height": 844}}], indirect=True)
def test_a_phone_scrolls_only_down(page: Page, html: Path) -> None:
    page.goto(html.as_uri())
    page.locator("#inference-llm .plot").first.scroll_into_view_if_needed()
    expect(page.locator("#inference-llm .plot .main-svg").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
