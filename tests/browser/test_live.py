"""The live page of the retail service in a real browser: it moves, says when a camera or the service is gone, and comes back by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from lib.pipelines.retail.api import Api
from tests.pipelines.retail.null import Shop, serving, until

STREAM = "#stream"


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Shop, Api]]:
    shop = Shop()
    with serving(shop) as api:
        yield shop, api


@pytest.fixture
def shop(running: tuple[Shop, Api]) -> Iterator[Shop]:
    shop, api = running
    put(shop, "cam-1", source="moody", fps=20)
    put(shop, "cam-2", source="roll", fps=20)
    yield shop
    shop.well = True
    for account in api.fleet.accounts():
        httpx.delete(f"{shop.url}/v1/cameras/{account.name}", trust_env=False)


def put(shop: Shop, name: str, **asked: object) -> None:
    assert httpx.put(f"{shop.url}/v1/cameras/{name}", json=asked, trust_env=False).status_code == 201


@pytest.fixture
def page(chromium: Browser, request: pytest.FixtureRequest, shop: Shop) -> Iterator[Page]:
    """A page that asks nothing of anybody but the service; what fails on purpose may be said on the console, but no script may."""
    context = chromium.new_context(**{"viewport": {"width": 1200, "height": 860}, **getattr(request, "param", {})})
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda asked: asked.url.startswith((shop.url, "data:")) or wrong.append(asked.url))
    page.goto(shop.url)
    yield page
    context.close()
    assert wrong == []


SHADE = """image => {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 2, 2, 1, 1, 0, 0, 1, 1);
  return image.naturalWidth ? pen.getImageData(0, 0, 1, 1).data[0] : null;
}"""


def moves(page: Page) -> None:
    """The picture is another one after a while: null frames grow lighter one by one."""
    shades: set[int] = set()

    def looked() -> bool:
        if (shade := page.locator(STREAM).evaluate(SHADE)) is not None:
            shades.add(shade)
        return len(shades) >= 3

    until(looked, within_s=15)


def test_frames_move_and_counts_are_told(page: Page) -> None:
    expect(page.locator("#link")).to_have_text("live")
    moves(page)
    expect(page.locator("#people")).to_have_text("1")
    expect(page.locator("#zones tr").first).to_contain_text("door")
    expect(page.locator("#zones tr").first.locator("td").first).to_have_text("1")
    for number in ("p50", "p99", "fps", "dropped"):
        expect(page.locator(f"#{number}")).not_to_have_text("–")
    expect(page.locator("#cameras tr")).to_have_count(2)
    expect(page.locator("#cameras tr").first).to_contain_text("running")
    expect(page.locator("#why")).to_be_hidden()


def test_another_camera_can_be_chosen(page: Page) -> None:
    moves(page)
    page.get_by_label("Camera", exact=True).select_option("cam-2")
    expect(page.locator(STREAM)).to_have_attribute("alt", "Camera cam-2 with boxes around people, zones and a line")
    assert "/cam-2/" in str(page.locator(STREAM).get_attribute("src"))
    moves(page)
    expect(page.locator("#people")).to_have_text("1")


def test_a_camera_that_fails_is_shown_and_comes_back(page: Page, shop: Shop) -> None:
    moves(page)
    shop.well = False
    expect(page.locator("#why")).to_contain_text("cam-1: failed, OSError: out of order", timeout=10_000)
    expect(page.locator("#cameras tr").first).to_contain_text("failed")
    expect(page.locator("#cameras tr").nth(1)).to_contain_text("running")
    shop.well = True
    expect(page.locator("#why")).to_be_hidden(timeout=15_000)
    moves(page)


def test_a_camera_that_is_ended_is_shown_and_comes_back(page: Page, shop: Shop) -> None:
    moves(page)
    httpx.delete(f"{shop.url}/v1/cameras/cam-1", trust_env=False)
    expect(page.locator("#why")).to_have_text("cam-1 was ended", timeout=10_000)
    put(shop, "cam-1", source="roll", fps=20)
    expect(page.locator("#why")).to_be_hidden(timeout=10_000)
    moves(page)
    expect(page.locator("#people")).to_have_text("1")


@pytest.mark.parametrize("page", [{"viewport": {"width": 400, "height": 800}}], indirect=True)
def test_a_telephone_scrolls_only_down(page: Page) -> None:
    moves(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    expect(page.get_by_label("Camera", exact=True)).to_be_visible()


@pytest.mark.parametrize("page", [{"color_scheme": "dark"}], indirect=True)
def test_it_follows_into_the_dark(page: Page) -> None:
    expect(page.locator("body")).to_have_css("background-color", "rgb(17, 22, 28)")
    page.emulate_media(color_scheme="light")
    expect(page.locator("body")).to_have_css("background-color", "rgb(246, 247, 249)")


CONTRASTS = """() => {
  const light = colour => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const ground = e => {
    const colour = getComputedStyle(e).backgroundColor;
    return /, 0\\)$/.test(colour) && e.parentElement ? ground(e.parentElement) : colour;
  };
  return [...document.querySelectorAll("h1, h2, dt, dd, th, td, label, .state")].filter(e => e.textContent.trim()).map(e => {
    const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
    return [(a + .05) / (b + .05), e.textContent];
  });
}"""


@pytest.mark.parametrize("page", [{"color_scheme": "light"}, {"color_scheme": "dark"}], indirect=True)
def test_words_are_readable(page: Page, shop: Shop) -> None:
    shop.well = False
    expect(page.locator("#cameras tr").first).to_contain_text("failed", timeout=10_000)
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 20
    assert min(contrasts)[0] >= 4.5, min(contrasts)  # WCAG 2.2, AA


def test_a_service_that_is_gone_is_said_and_found_again(chromium: Browser) -> None:
    shop = Shop()
    with ExitStack() as first:
        first.enter_context(serving(shop))
        put(shop, "cam-1", source="roll", fps=20)
        page = chromium.new_page()
        page.goto(shop.url)
        moves(page)
    expect(page.locator("#link")).to_have_text("connection lost, trying again", timeout=10_000)
    expect(page.locator("#why")).to_have_text("The service does not answer")
    with serving(shop, port=int(shop.url.rpartition(":")[2])):
        expect(page.locator("#link")).to_have_text("live", timeout=15_000)
        expect(page.locator("#why")).to_have_text("cam-1 was ended")
        put(shop, "cam-1", source="roll", fps=20)
        expect(page.locator("#why")).to_be_hidden(timeout=10_000)
        moves(page)
        page.close()
