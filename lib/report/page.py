"""Executed notebooks as pages that open from disk: a site (`index.html` and a page each) or one file, `report.html`.

Nothing is fetched from anywhere: one plotly.js (4.8 MB) stands beside the site or inside the file. Figures are live, or
pictures where scripts do not run or the page is printed. Code is folded. Math markup is not rendered: write it as text.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import nbformat
from bs4 import BeautifulSoup
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from nbconvert.filters import ansi2html, markdown2html
from nbconvert.filters.highlight import Highlight2HTML
from nbformat import NotebookNode

from lib import figures, home

HERE = Path(__file__).parent
PLOTLY = "application/vnd.plotly.v1+json"
LONG_CELL = 40  # characters; a longer cell may break its line
TITLE = "Which inference stack, how fast, at what cost, and how do you know?"


@dataclass(frozen=True, slots=True)
class Page:
    """One notebook, ready to be set: its question, its first claim, its sections (id, heading) and its body."""

    name: str
    title: str
    lead: str
    claim: str | None
    failed: int | None  # the cell that raised
    sections: tuple[tuple[str, str], ...]
    body: Markup

    @property
    def number(self) -> str:
        return self.name[:2]


def site(executed: Sequence[Path], out: Path, *, machine: str = "") -> Path:
    """Write `out`/index.html, headed by `machine` (who measured, in a line), and a page for each of `executed`."""
    pages = [_page(path) for path in executed]
    links = {page.name: f"{page.name}.html" for page in pages}
    (out / "assets").mkdir(parents=True, exist_ok=True)
    for name, text in _assets().items():
        (out / "assets" / name).write_text(text, encoding="utf-8")
    index = out / "index.html"
    put = partial(_set, pages=pages, links=links, machine=machine, inline=None)
    index.write_text(put("index", shown=[]), encoding="utf-8")
    for page in pages:
        (out / links[page.name]).write_text(put("page", shown=[page]), encoding="utf-8")
    return index


def single(executed: Sequence[Path], out: Path, *, machine: str = "") -> Path:
    """Write `out`/report.html, all of `executed` in one file that needs nothing else; its path."""
    pages = [_page(path) for path in executed]
    links = {page.name: f"#{page.name}" for page in pages}
    out.mkdir(parents=True, exist_ok=True)
    report = out / "report.html"
    text = _set("single", shown=pages, pages=pages, links=links, machine=machine, inline=_assets())
    report.write_text(text, encoding="utf-8")
    return report


def _set(kind: str, *, links: Mapping[str, str], **values: Any) -> str:
    setting = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    text = setting.get_template("page.html.j2").render(kind=kind, links=links, title=TITLE, **values)
    for name, link in links.items():
        text = text.replace(f'href="{name}.ipynb', f'href="{link}')  # a link between notebooks stays one between pages
    return text


@cache
def _assets() -> dict[str, str]:
    from plotly.offline import get_plotlyjs

    script = (HERE / "page.js").read_text(encoding="utf-8").replace("DARK_COLOURS", json.dumps(figures.DARK))
    return {"plotly.js": get_plotlyjs(), "page.css": (HERE / "page.css").read_text(encoding="utf-8"), "page.js": script}


def _page(path: Path) -> Page:
    nb = nbformat.read(path, 4)
    tree = BeautifulSoup("".join(_blocks(nb, path)), "html.parser")
    for mark in tree.select("a.anchor-link"):
        mark.decompose()
    question = tree.h1.extract() if tree.h1 else None
    sections = []
    for heading in tree.select("h2, h3"):
        text = heading.get_text().strip()
        slug = re.sub(r"\W+", "-", text.lower()).strip("-")
        heading["id"] = f"{path.stem}--{slug}"
        if heading.name == "h2":
            sections.append((str(heading["id"]), text))
    for table in tree.select("table"):
        label = table.caption.get_text() if table.caption else "table"
        box = {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": label}
        table.wrap(tree.new_tag("div", attrs=box))
    for cell in tree.select("td"):
        if len(cell.get_text()) > LONG_CELL:
            cell["class"] = "long"
    first = tree.select_one(".markdown p")
    said = tree.select_one(".claim")
    return Page(
        name=path.stem,
        title=re.sub(r"^\d+\s*[·.:–-]\s*", "", question.get_text().strip()) if question else path.stem,
        lead=first.get_text() if first else "",
        claim=said.get_text().strip() if said else None,
        failed=_failed(nb),
        sections=tuple(sections),
        body=Markup(str(tree)),
    )


def _failed(nb: NotebookNode) -> int | None:
    for cell in nb.cells:
        if any(output.output_type == "error" for output in cell.get("outputs", ())):
            return int(cell.execution_count)
    return None


def _blocks(nb: NotebookNode, path: Path) -> Iterator[str]:
    """The notebook as HTML, code that shows nothing gathered with the code that follows it."""
    code: list[str] = []
    colour = Highlight2HTML(pygments_lexer="ipython3")
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            yield from _fold(code)
            yield f'<div class="markdown">{markdown2html(_embedded(cell.source, path))}</div>'
        elif cell.cell_type == "code" and cell.source.strip():
            code.append(colour(cell.source))
            if cell.outputs:
                yield from _fold(code)
                yield from map(_output, cell.outputs)
    yield from _fold(code)


def _fold(code: list[str]) -> Iterator[str]:
    if code:
        yield f'<details class="code"><summary>Code</summary>{"".join(code)}</details>'
        code.clear()


def _embedded(markdown: str, path: Path) -> str:
    """`markdown` with the repository's pictures inside it: they must not be missing where only the page went."""
    def data(found: re.Match[str]) -> str:
        for base in (path.parent, home.NOTEBOOKS):  # where the executed copy lies, and where its author saw it
            if (picture := base / found[2]).is_file():
                return f"{found[1]}data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}{found[3]}"
        return found[0]

    return re.sub(r"(!\[[^\]]*\]\()([^)\s:]+\.png)(\))", data, markdown)


def _output(output: NotebookNode) -> str:
    if output.output_type == "stream":
        return f'<pre class="stream {output.name}">{ansi2html(output.text)}</pre>'
    if output.output_type == "error":
        return f'<pre class="error">{ansi2html(chr(10).join(output.traceback))}</pre>'
    data, metadata = output.data, output.metadata
    if PLOTLY in data:
        return _figure(data, metadata)
    if "text/html" in data:
        return f'<div class="output">{data["text/html"]}</div>'
    if "text/markdown" in data:
        kind = "output claim" if metadata.get("claim") else "output"
        return f'<div class="{kind}">{markdown2html(data["text/markdown"])}</div>'
    if "image/svg+xml" in data:
        return f'<div class="output">{data["image/svg+xml"]}</div>'
    if "image/jpeg" in data:
        said, width = metadata.get("photo", {}).get("takeaway", ""), metadata.get("image/jpeg", {}).get("width", "")
        source = f"data:image/jpeg;base64,{data['image/jpeg'].strip()}"
        return f'<img class="output" alt="{Markup.escape(said)}" width="{width}" src="{source}">'
    if "image/png" in data:
        return f'<img class="output" alt="" src="data:image/png;base64,{data["image/png"].strip()}">'
    return f"<pre>{ansi2html(data.get('text/plain', ''))}</pre>"


def _figure(data: NotebookNode, metadata: NotebookNode) -> str:
    """A live figure under its takeaway, with its picture for print and for pages without scripts."""
    said = metadata.get("figure", {}).get("takeaway") or data.get("text/plain", "")
    takeaway = str(Markup.escape(said))
    live = json.dumps({"data": data[PLOTLY]["data"], "layout": data[PLOTLY]["layout"]}).replace("</", "<\\/")
    size = metadata.get("image/png", {})
    picture = ""
    if "image/png" in data:
        shape = "".join(f' {side}="{int(size[side])}"' for side in ("width", "height") if side in size)
        picture = f'<img alt="{takeaway}"{shape} src="data:image/png;base64,{data["image/png"].strip()}">'
    return (
        f'<figure class="plot{"" if picture else " alone"}"><figcaption>{takeaway}</figcaption>'
        f'<div class="live" role="img" aria-label="{takeaway}"></div>{picture}'
        f'<script type="application/json">{live}</script></figure>'
    )
