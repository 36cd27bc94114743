"""The command line: every valid word is named when one is unknown; the README's results are written between their markers."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from lib import home, readme, readme_zh, session
from lib.__main__ import app
from lib.images import views as image_views
from lib.verdict import answers, headlines, needs, speaking

EVERY = ", ".join(path.stem for path in sorted(home.NOTEBOOKS.glob("*.ipynb")))


@pytest.mark.parametrize(("words", "valid"), [
    (["run", "--profile", "huge"], "unknown profile 'huge'; there are: smoke, quick, full"),
    (["run", "--mode", "dream"], "unknown mode 'dream'; there are: auto, live, recorded"),
    (["run", "--engines", "vllm,sglang"], "unknown engine 'sglang'; there are: vllm, llamacpp, transformers, trtllm"),
    (["run", "--only", "77"], f"no notebook 77; there are: {EVERY}"),
    (["publish", "--only", "x"], f"no notebook x; there are: {EVERY}"),
])  # fmt: skip
def test_an_unknown_word_is_answered_with_the_valid_ones(words: list[str], valid: str) -> None:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert valid in " ".join(done.stderr.split())


def test_the_results_stand_between_their_markers_and_nothing_else_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readme, "results", lambda: "### What was found")
    text = f"before\n{readme.BEGIN}\nOUT OF DATE\n{readme.END}\nafter\n"
    new = readme.renewed(text)
    assert new.startswith(f"before\n{readme.BEGIN}\n\n### ")
    assert new.endswith(f"\n\n{readme.END}\nafter\n")
    assert "OUT OF DATE" not in new
    assert readme.renewed(new) == new
    with pytest.raises(ValueError, match="lacks its markers"):
        readme.renewed("no markers")


@pytest.mark.parametrize(("name", "written"), [("README.md", readme), ("README.zh-TW.md", readme_zh)])
def test_the_committed_readmes_say_what_is_recorded(name: str, written: ModuleType) -> None:
    text = (home.ROOT / name).read_text(encoding="utf-8")
    assert written.renewed(text) == text


def test_where_nothing_is_recorded_both_readmes_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (speaking, session):
        monkeypatch.setattr(module, "REFERENCE", tmp_path)
    monkeypatch.setattr(image_views.record, "runs", lambda *_, **__: [])
    told = readme.results()
    assert answers.NOBODY in told
    assert told.count("no recorded run of") >= len(headlines.PARTS)
    findings = readme_zh.findings(speaking.Speaking())
    assert [line[:2] for line in findings.splitlines()] == ["1.", "2.", "3.", "4.", "5."]
    assert findings.count(readme_zh.NOTHING) == 5


def test_the_chinese_summary_wants_its_markers_and_names_the_needs_in_chinese() -> None:
    with pytest.raises(ValueError, match=r"README.zh-TW.md lacks its markers"):
        readme_zh.renewed(f"{readme_zh.BEGIN} only")
    found = needs.settled(speaking.Speaking())
    keys = {one.contest.key.partition("-")[0] if one.contest.key.startswith("first-") else one.contest.key
            for mine in found.values() for one in mine}  # fmt: skip
    assert keys - set(answers.FORMS) <= set(readme_zh.WISHES)
