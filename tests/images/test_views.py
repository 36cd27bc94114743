"""Tables out of golden points: what was measured is shown, what was not is unknown and never a zero."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib import record
from lib.images import views


def image(service: str, variant: str, size: int) -> record.Point:
    packages = [{"name": "big", "version": "1", "kind": "python", "bytes": size * 9 // 10, "files": 3},
                {"name": "tiny", "version": "1", "kind": "python", "bytes": size // 100, "files": 1},
                {"name": "lib", "version": "", "kind": "ours", "bytes": size - size * 9 // 10 - size // 100, "files": 1}]  # fmt: skip
    layers = [{"created_by": "base", "bytes": size, "compressed_bytes": size // 3, "files": 5}]
    facts = {"bytes": size, "compressed_bytes": size // 3, "files": 5, "packages": packages, "layers": layers, "build_s": 12.5, "lint": [],
             "sbom_components": 7, "user": "65532:65532", "licences": "MIT"}  # fmt: skip
    return record.Point({"what": "image", "service": service, "variant": variant}, "ok", facts=facts, audit={"6 books": None})


def start(variant: str, cache: str, nth: int, seconds: float) -> record.Point:
    setting = {"what": "start", "service": "fraud", "variant": variant, "cache": cache, "round": nth}
    samples = {"ready_s": [seconds], "first_answer_s": [seconds + 0.1], "rss_bytes": [90_000_000]}
    return record.Point(setting, "ok", samples=samples, audit={"8 quiet": None})


@pytest.fixture
def seen(tmp_path: Path) -> views.Images:
    run = record.begin(views.NOTEBOOK, parameters={"profile": "quick"}, environment={"machine_id": "toy", "stack_id": "x"}, root=tmp_path)
    rules = [{"what": "tests", "why": "because", "globs": ["a"], "how": "cut", "files": 3, "bytes": 5_000_000},
             {"what": "symbols", "why": "so", "globs": ["b"], "how": "strip", "files": 1, "bytes": 9_000_000}]  # fmt: skip
    answers = {"requests": 1000, "equal": True, "sha256": "ab" * 32, "first_difference": None}
    points = [
        image("fraud", "distroless", 150_000_000), image("fraud", "fat", 1_200_000_000),
        *(start("fat", "cold", nth, 1 + nth / 100) for nth in range(1, 8)), start("distroless", "cold", 1, 0.8),
        record.Point({"what": "cut", "service": "fraud"}, "ok", facts={"rules": rules}, audit={"7 rules": None}),
        record.Point({"what": "answers", "service": "fraud", "variant": "fat"}, "ok", facts=answers, audit={"7 answers": None}),
        record.Point({"what": "answers", "service": "fraud", "variant": "distroless"}, "invalid", "7 answers: another",
                     facts={**answers, "equal": False}, audit={"7 answers": "another"}),
    ]  # fmt: skip
    for point in points:
        run.add(point)
    return views.images([run])


def test_sizes_stand_against_fat(seen: views.Images) -> None:
    fat, bare = seen.sizes().to_dict("records")
    assert (fat["variant"], fat["mb"], fat["times_smaller"]) == ("fat", 1200, 1)
    assert (bare["variant"], bare["mb"], bare["times_smaller"]) == ("distroless", 150, 8)
    assert fat["cold_s"] == pytest.approx(1.14)
    assert seen.sizes()["warm_s"].isna().all()  # nobody measured it


def test_parts_add_up_and_small_ones_are_together(seen: views.Images) -> None:
    parts = seen.parts()
    bare = parts[parts["variant"] == "distroless"]
    assert bare["mb"].sum() == pytest.approx(150)
    assert set(bare["part"]) == {"big", "others", "lib"}


def test_cuts_begin_with_the_most(seen: views.Images) -> None:
    assert seen.cuts()["what"].tolist() == ["symbols", "tests"]


def test_what_a_reader_is_shown_are_the_same_numbers(seen: views.Images) -> None:
    assert seen.shown()[["image", "MB", "× smaller"]].to_numpy().tolist() == [["fat", 1200, 1], ["distroless", 150, 8]]
    assert seen.shown_cuts().to_numpy().tolist() == [["symbols", "9.0", "so"], ["tests", "5.0", "because"]]
    assert seen.shown_answers()["same bytes as fat"].tolist() == [True, False]


def test_starts_have_intervals_only_where_there_are_enough(seen: views.Images) -> None:
    starts = seen.starts().set_index(["variant", "what"])
    assert starts.loc[("fat", "ready"), "n"] == 7
    assert starts.loc[("fat", "ready"), "lo_s"] < starts.loc[("fat", "ready"), "s"] < starts.loc[("fat", "ready"), "hi_s"]
    assert starts.loc[("distroless", "ready"), ["lo_s", "hi_s"]].isna().all()


def test_other_answers_are_shown_as_such(seen: views.Images) -> None:
    assert seen.answers().set_index("variant")["equal"].to_dict() == {"fat": True, "distroless": False}
    told = seen.headline()
    assert (told["fraud_distroless_mb"], told["least_times"]) == (150, 8)
    assert (told["equal"], told["compared"]) == (0, 1)  # fat is what they stand against
    assert told["fraud_distroless_warm_s"] is None


def test_nothing_recorded_says_what_to_do() -> None:
    with pytest.raises(views.NothingRecorded, match=r"run_all\.sh images"):
        views.images([])
