"""The command line: every valid word is named when one is unknown; the README's results are written between their markers."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from lib import home, readme
from lib.__main__ import app

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


def test_the_results_stand_between_their_markers_and_nothing_else_changes() -> None:
    text = f"before\n{readme.BEGIN}\nOUT OF DATE\n{readme.END}\nafter\n"
    new = readme.renewed(text)
    assert new.startswith(f"before\n{readme.BEGIN}\n\n### ")
    assert new.endswith(f"\n\n{readme.END}\nafter\n")
    assert "OUT OF DATE" not in new
    assert readme.renewed(new) == new
    with pytest.raises(ValueError, match="lacks its markers"):
        readme.renewed("no markers")


def test_the_committed_readme_says_what_is_recorded() -> None:
    text = (home.ROOT / "README.md").read_text()
    assert readme.renewed(text) == text
