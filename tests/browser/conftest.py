"""The samples, executed once and set as pages, opened in a chromium that has no network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from shutil import which

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from rich.console import Console

from lib import report

SAMPLES = Path(__file__).parent.parent / "samples"
QUIET = ("--no-sandbox --disable-gpu --disable-background-networking --no-first-run --disable-component-update "
         "--disable-sync")  # fmt: skip


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with index.html, the notebooks' pages and report.html."""
    out = tmp_path_factory.mktemp("report")
    with open(os.devnull, "w") as nowhere:
        outcomes = report.run(
            report.notebooks(folder=SAMPLES), parameters={}, out=out / "notebooks", console=Console(file=nowhere),
            figures=out / "figures", times=out / "times.json",
        )  # fmt: skip
    assert [outcome.error for outcome in outcomes] == [None, None]
    executed = [outcome.path for outcome in outcomes if outcome.path]
    report.site(executed, out, machine="2 sample cores · 24 GiB")
    report.single(executed, out, machine="2 sample cores · 24 GiB")
    return out


@pytest.fixture(scope="module")  # while the driver lives its event loop runs on this thread, where other tests want theirs
def chromium() -> Iterator[Browser]:
    path = which("chromium") or which("chromium-browser") or which("google-chrome")
    if not path:
        pytest.skip("no chromium on this machine: pages cannot be opened")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=QUIET.split())
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page without network that must end without a word on the console and without asking for anything but files."""
    options = getattr(request, "param", {})
    context = chromium.new_context(**{"viewport": {"width": 1440, "height": 900}, "offline": True, **options})
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda asked: asked.url.startswith(("file:", "data:", "blob:")) or said.append(asked.url))
    yield page
    context.close()
    assert said == []
