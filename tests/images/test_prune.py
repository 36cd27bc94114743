"""Rules cut what they name and nothing else, count it, and must give a reason."""

from __future__ import annotations

import os
import shutil
import sys
import tomllib
from pathlib import Path

import pytest

from lib.images import prune
from lib.images.recipe import DEPLOY


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path, size in {"site/a/tests/one.py": 10, "site/a/tests/deep/two.py": 20, "site/a/core.py": 5, "site/b/tests/kept.py": 7,
                       "site/b/x.pyi": 3}.items():  # fmt: skip
        (file := tmp_path / "root" / path).parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * size)
    (tmp_path / "root" / "site" / "link").symlink_to("a")
    return tmp_path / "root"


def rule(*globs: str, keep: tuple[str, ...] = (), within: tuple[str, ...] = ("fraud",), how: str = "cut") -> prune.Rule:
    return prune.Rule("tests", "because", globs, within, keep, how)


def test_a_rule_cuts_counts_and_keeps(root: Path) -> None:
    (cut,) = prune.prune(root, [rule("site/**/tests", keep=("site/b/tests/kept.py",))], "fraud")
    assert (cut.files, cut.bytes) == (2, 30)
    assert not (root / "site/a/tests").exists()
    assert (root / "site/a/core.py").exists()
    assert (root / "site/b/tests/kept.py").exists()


def test_only_the_images_that_a_rule_names(root: Path) -> None:
    assert prune.prune(root, [rule("site/a", within=("retail",))], "fraud") == []
    assert (root / "site/a/core.py").exists()


def test_a_link_is_cut_and_not_what_it_leads_to(root: Path) -> None:
    (cut,) = prune.prune(root, [rule("site/link")], "fraud")
    assert (cut.files, cut.bytes) == (1, 0)
    assert (root / "site/a/core.py").exists()
    assert not (root / "site/link").is_symlink()


def test_what_finds_nothing_says_so(root: Path) -> None:
    assert prune.prune(root, [rule("site/none")], "fraud")[0].files == 0


@pytest.mark.parametrize(("text", "why"), [
    ('what = "x"\nglobs = ["a"]\nwithin = ["fraud"]', "lacks why"),
    ('what = "x"\nwhy = "y"\nglobs = ["/etc"]\nwithin = ["fraud"]', "no path below"),
    ('what = "x"\nwhy = "y"\nglobs = ["a/../../b"]\nwithin = ["fraud"]', "no path below"),
    ('what = "x"\nwhy = "y"\nglobs = ["**"]\nwithin = ["fraud"]', "no path below"),
    ('what = "x"\nwhy = "y"\nglobs = ["a"]\nwithin = ["fraud"]\nhow = "burn"', "cut or strip"),
    ('what = "x"\nwhy = "y"\nglobs = ["a"]\nwithin = ["fraud"]\nglob = "b"', "unknown glob"),
])  # fmt: skip
def test_a_rule_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "rules.toml").write_text(f"[[rule]]\n{text}\n")
    with pytest.raises(prune.BadRule, match=why):
        prune.rules(tmp_path / "rules.toml")


def test_our_rules_can_be_meant_and_say_why() -> None:
    ours = prune.rules(DEPLOY / "prune.toml")
    assert {name for each in ours for name in each.within} == {"fraud", "retail", "base"}
    assert all(len(each.why) > 15 for each in ours)
    assert len(ours) == len(tomllib.loads((DEPLOY / "prune.toml").read_text())["rule"])


@pytest.mark.skipif(shutil.which("strip") is None, reason="there is no strip on this machine")
def test_symbols_go_only_where_the_loader_still_takes_the_file(root: Path) -> None:
    copy = root / "site" / "program"
    shutil.copy(os.path.realpath(sys.executable), copy)
    before = copy.stat().st_size
    (cut,) = prune.prune(root, [rule("site/program", "site/a/core.py", how="strip")], "fraud")
    assert before - copy.stat().st_size == cut.bytes >= 0
    assert prune.aligned(copy)
    assert (root / "site/a/core.py").stat().st_size == 5
