"""The report as a reader meets it: from disk, without network, on a wide screen, a phone, in the dark and on paper."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

LATENCY, REPORT = "10_sample_latency.html", "report.html"
PHONE = {"viewport": {"width": 390, "height": 844}}


def opened(page: Page, pages: Path, name: str) -> Page:
    page.goto((pages / name).as_uri())
    return page


def drawn(page: Page, nth: int = 0) -> None:
    page.locator("figure.plot").nth(nth).scroll_into_view_if_needed()
    expect(page.locator("figure.plot").nth(nth).locator(".main-svg").first).to_be_visible()


@pytest.mark.parametrize("name", [LATENCY, REPORT])
def test_figures_are_live(page: Page, pages: Path, name: str) -> None:
    opened(page, pages, name)
    for nth in (0, 1):
        drawn(page, nth)
    figure = page.locator("figure.plot").first
    assert figure.locator(".scatterlayer .trace").count() == 2
    figure.locator(".legendtoggle").first.click()
    expect(figure.locator(".scatterlayer .trace")).to_have_count(1)  # plotly waits 300 ms for a double click
    figure.locator(".scatterlayer .trace .point").last.hover(force=True)
    expect(figure.locator(".hoverlayer .hovertext")).to_contain_text("llama.cpp F16")
    expect(figure.locator("img")).to_be_hidden()


@pytest.mark.parametrize("name", [LATENCY, REPORT])
def test_code_is_folded_until_asked_for(page: Page, pages: Path, name: str) -> None:
    opened(page, pages, name)
    code = page.locator("details.code pre").first
    expect(code).to_be_hidden()
    page.get_by_role("button", name="Show code").click()
    expect(code).to_be_visible()
    page.get_by_role("button", name="Hide code").click()
    expect(code).to_be_hidden()
    page.locator("details.code summary").first.click()
    expect(code).to_be_visible()


def test_the_index_asks_answers_and_leads_on(page: Page, pages: Path) -> None:
    opened(page, pages, "index.html")
    expect(page.locator(".machine")).to_have_text("2 sample cores · 24 GiB")
    first = page.locator(".questions article").first
    expect(first).to_contain_text("llama.cpp answers a 512-token prompt 1.4× sooner than vLLM")
    first.get_by_role("link").click()
    expect(page.locator("h1")).to_contain_text("Which sample engine answers first? 誰先回答？")
    page.locator("[rel=next]").click()
    expect(page.locator("h1")).to_contain_text("What does a sample cost?")
    page.locator("[rel=prev]").click()
    page.locator(".markdown").get_by_role("link", name="the other one").click()  # a link between notebooks
    expect(page).to_have_url((pages / "20_sample_cost.html").as_uri())
    page.get_by_role("link", name="Inference, measured").click()
    expect(page).to_have_url((pages / "index.html").as_uri())


def test_the_contents_lead_to_sections(page: Page, pages: Path) -> None:
    opened(page, pages, LATENCY)
    page.locator("nav").get_by_role("link", name="What could prove this wrong").click()
    expect(page.get_by_role("heading", name="What could prove this wrong")).to_be_in_viewport()


def test_one_file_needs_nothing_beside_it(page: Page, pages: Path, tmp_path: Path) -> None:
    alone = tmp_path / "report.html"
    alone.write_bytes((pages / REPORT).read_bytes())
    assert alone.stat().st_size < 6_000_000
    page.goto(alone.as_uri())
    drawn(page)
    page.locator(".questions").get_by_role("link", name="What does a sample cost?").click()
    expect(page.locator("section#\\32 0_sample_cost h1")).to_be_in_viewport()
    expect(page.locator("nav li.current")).to_contain_text("What does a sample cost?")
    ids = page.evaluate("[...document.querySelectorAll('main [id]')].map(e => e.id).filter(i => !i.includes('plotly'))")
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("page", [PHONE], indirect=True)
@pytest.mark.parametrize("name", ["index.html", LATENCY, REPORT])
def test_a_phone_scrolls_only_down(page: Page, pages: Path, name: str) -> None:
    opened(page, pages, name)
    if name != "index.html":
        drawn(page)
        box = page.locator(".scroll").first
        assert box.evaluate("e => e.scrollWidth > e.clientWidth && e.tabIndex === 0")  # it scrolls in its own box
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    expect(page.locator("nav ol")).to_be_hidden()
    page.get_by_text("Contents", exact=True).click()
    expect(page.locator("nav ol")).to_be_visible()


@pytest.mark.parametrize("page", [{"color_scheme": "dark"}], indirect=True)
def test_figures_follow_the_page_into_the_dark_and_back(page: Page, pages: Path) -> None:
    opened(page, pages, LATENCY)
    drawn(page)
    tick = page.locator("figure.plot .xtick text").first
    assert tick.evaluate("e => getComputedStyle(e).fill") == "rgb(154, 165, 179)"
    page.emulate_media(color_scheme="light")
    expect(page.locator("figure.plot .xtick text").first).to_have_css("fill", "rgb(91, 102, 115)")


@pytest.mark.parametrize("page", [{"java_script_enabled": False}], indirect=True)
def test_without_scripts_there_are_pictures_with_words_beside_them(page: Page, pages: Path) -> None:
    opened(page, pages, LATENCY)
    picture = page.locator("figure.plot img").first
    expect(picture).to_be_visible()
    expect(picture).to_have_attribute("alt", "llama.cpp answers 1.4× sooner at every length; 繁體中文標題也看得見")


def test_paper_gets_pictures_and_no_menus(page: Page, pages: Path) -> None:
    opened(page, pages, REPORT)
    page.emulate_media(media="print")
    expect(page.locator("figure.plot img").first).to_be_visible()
    expect(page.locator("figure.plot .live").first).to_be_hidden()
    expect(page.locator("nav")).to_be_hidden()
    assert page.pdf().startswith(b"%PDF")


def test_chinese_is_drawn_with_glyphs(page: Page, pages: Path) -> None:
    """Two different characters look different; without a font both would be the same empty box."""
    opened(page, pages, LATENCY)
    page.locator("main").evaluate("e => { e.innerHTML = '<p><b id=a>繁</b> <b id=b>體</b></p>' }")
    assert page.locator("#a").screenshot() != page.locator("#b").screenshot()
