"""What the retail notebook says follows from the record: made-up runs with known answers, the recorded one from its raw samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lib import measured, record
from lib.measured import Found
from lib.pipelines.retail import cameras, density, findings, load_views, soak, variants, views, ways
from lib.pipelines.retail.footage import FLOOR
from lib.pipelines.retail.ladder import REFERENCE
from lib.pipelines.retail.sample import Sample
from lib.pipelines.retail.session import Session, floors, session
from lib.pipelines.retail.walk import STAGES
from lib.session import NothingRecorded, Opened
from lib.vision import labels
from lib.vision.boxes import Boxes, none
from lib.vision.labels import Labels

ENVIRONMENT = {"machine_id": "made", "stack_id": "made"}
TRUTH = labels.load()
FRAMES = sorted(TRUTH.frames)[:4]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """An empty run on a machine that nothing disturbs."""
    monkeypatch.setattr(measured.audit, "undisturbed", lambda host, cores: None)
    run = record.begin("02_retail_pipeline", parameters={}, environment=ENVIRONMENT, root=tmp_path)
    return Session(Opened(run, (), None), None)


@pytest.fixture(scope="module")
def recorded() -> Session:
    try:
        return session(profile="quick", mode="recorded")
    except NothingRecorded as reason:
        pytest.skip(str(reason))


# --- the network ---


def seen(frame: int, *, without: int = 0, score: float = 0.9) -> Boxes:
    """The hand's boxes of a frame, but for the first few."""
    people = TRUTH.persons(frame)
    return Boxes(people.xyxy, np.full(len(people), score, np.float32), people.label).at(np.arange(without, len(people)))


def variant(s: Session, name: str, found: list[Boxes], ms: float, *, beside_ms: float = 20.0) -> None:
    facts = {"net_hw": (480, 640), "precision": "fp32", "frames": FRAMES}
    series = {"boxes": variants.table(FRAMES, found)}
    samples = {"infer_s": [ms / 1e3] * 40, "beside_s": [beside_ms / 1e3] * 24}
    measured.keep(s.run, {"what": "variant", "name": name, "round": 0}, lambda: Found(samples, facts, {}, series))


def test_a_variant_is_judged_against_the_reference_and_the_hand(made: Session) -> None:
    variant(made, REFERENCE, [seen(frame) for frame in FRAMES], 20.0)
    variant(made, "OpenVINO INT8", [seen(frame, without=1) for frame in FRAMES], 5.0, beside_ms=25.0)
    table = views.variants(made, TRUTH).set_index("name")
    people = sum(len(TRUTH.frames[frame]) for frame in FRAMES)
    assert table.loc[REFERENCE, ["f1", "f1_hand", "ap_hand", "off_hand", "found"]].tolist() == [1, 1, 1, 0, people]
    fast = table.loc["OpenVINO INT8"]
    assert fast["f1"] == fast["f1_hand"] == pytest.approx(2 * (people - 4) / (2 * people - 4))
    assert (fast["off_hand"], fast["recall_hand"], fast["precision_hand"]) == (1.0, pytest.approx((people - 4) / people), 1.0)
    assert (fast["ms"], fast["times"]) == (pytest.approx(5.0), pytest.approx(5.0))


def test_unsure_boxes_count_for_average_precision_alone(made: Session) -> None:
    variant(made, REFERENCE, [seen(frame, score=0.1) for frame in FRAMES], 20.0)
    row = views.variants(made, TRUTH).iloc[0]
    assert (row["found"], row["f1_hand"], row["ap_hand"]) == (0, 0, 1)


def test_the_trap_is_told_from_what_was_found(made: Session) -> None:
    variant(made, REFERENCE, [seen(frame) for frame in FRAMES], 20.0)
    variant(made, "ONNX Runtime INT8, head too", [none() for _ in FRAMES], 12.0)
    told = findings.trap(views.variants(made, TRUTH))
    assert (told["trap"], told["there"], told["trap_ms"]) == (0, sum(len(TRUTH.frames[frame]) for frame in FRAMES), pytest.approx(12.0))
    assert told["kept"] is None  # never measured: the sentence that quotes it is refused


def test_the_fastest_that_keeps_its_f1_is_picked() -> None:
    nets = pd.DataFrame({"name": ["a", "b", "c"], "f1": [1.0, 0.97, 0.9], "times": [1.0, 2.0, 6.0]})
    assert findings.pick(nets)["name"] == "b"


# --- ways ---


def way(s: Session, name: str, *, seconds: float, people: int = 5, turn: int = 0, lanes: int = 2, looked: int = 100) -> None:
    numbers = np.arange(100)
    frame = pd.DataFrame({"outcome": pd.Categorical(["seen"] * 100), "people": np.full(100, people), "queue": 0, "entries": numbers // 20,
                          "exits": 0, "in aisle": people, "dwell aisle": float(people), "visits aisle": 1})  # fmt: skip
    for nth, stage in enumerate(STAGES):
        frame[f"{stage}, µs"] = np.float32(1000 * (nth + 1))
    facts = {"frames": 100, "wall_s": seconds, "changed": "x", "view": "whole", "lanes": lanes, "looked": looked, "unexplained_s": 1e-5}
    series = {"frames": frame, "feet": pd.DataFrame({"frame": [0], "id": [1], "x": [10.0], "y": [500.0]})}
    measured.keep(s.run, {"what": "way", "name": name, "round": turn}, lambda: Found({}, facts, {}, series))


def loop(s: Session, ms: float, *, view: str = "whole", turn: int = 0) -> None:
    measured.keep(s.run, {"what": "loop", "view": view, "round": turn}, lambda: Found({"frame_s": [ms / 1e3] * 10}, {}, {}))


def test_ways_are_multiples_of_the_loop_in_their_own_round(made: Session) -> None:
    for turn, (loop_ms, seconds) in enumerate([(50, 1.0), (100, 2.5), (50, 0.5)]):
        loop(made, loop_ms, turn=turn)
        way(made, "INT8", seconds=seconds, turn=turn)
    row = findings.row(views.ways(made, TRUTH), "way", "INT8")
    assert (row["times"], row["times_lo"], row["times_hi"], row["rounds"]) == (5, pytest.approx(4), 10, 3)
    assert (row["fps"], row["looked"]) == (100, 1)


def test_what_a_way_reports_is_held_against_the_hand_and_the_reference(made: Session) -> None:
    way(made, "in the graph", seconds=1, people=5, lanes=0)
    way(made, "every 2nd", seconds=1, people=4, looked=50)
    row = findings.row(views.ways(made, TRUTH), "way", "every 2nd")
    by_hand = [len(TRUTH.frames[frame]) for frame in sorted(TRUTH.frames) if frame < 100]
    assert row["off_hand"] == pytest.approx(sum(abs(4 - people) for people in by_hand) / sum(by_hand))
    assert (row["off"], row["dwell_off"], row["zones_off"], row["queue_off"]) == (pytest.approx(0.2),) * 3 + (0,)
    assert (row["entries"], row["exits"], row["looked"]) == (4, 0, 0.5)


def test_the_waterfall_adds_up(made: Session) -> None:
    way(made, "in the graph", seconds=1, lanes=0)
    fall = views.waterfall(made, "in the graph")
    assert fall["stage"].tolist() == [*STAGES, "whole"]
    assert fall["p50"].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 45]
    assert fall["budget"].iloc[-1] == sum(views.BUDGET_MS.values()) == 50
    assert findings.whole(fall)["share"] == pytest.approx(5 / 45)
    assert findings.around(made, fall, fall)["after"] == pytest.approx(40)


def test_copies_follow_from_the_shapes() -> None:
    table = views.copies((576, 768), (480, 640)).set_index("step")
    assert table.loc["together"].tolist() == [int(table[name].iloc[:-1].sum()) for name in table]
    assert table.loc["to float32", "first draft"] == 4 * 3 * 480 * 640


def test_a_zone_is_counted_by_hand_as_it_is_by_the_floor(made: Session) -> None:
    floor = floors.load(FLOOR)
    way(made, "INT8, smaller", seconds=1)
    with pytest.raises(KeyError):
        views.zone_counts(made, TRUTH, "INT8, smaller", floor)  # the made-up way knows one zone only
    aisle = floors.Floor(floor.frame_hw, tuple(zone for zone in floor.zones if zone.name == "aisle"), None)
    table = views.zone_counts(made, TRUTH, "INT8, smaller", aisle)
    assert table["found"].tolist() == [5] * len([frame for frame in TRUTH.frames if frame < 100])
    assert table["hand"].max() <= max(len(people) for people in TRUTH.frames.values())
    assert findings.zones(table)["n"] == len(table)


# --- load ---


def sample(number: int, place: int, people: int, camera: str = "cam-1", age_s: float = 0.05) -> Sample:
    at = number / 15
    return Sample(camera, number, place, 1, people, at, at, at, at, at, at, at, at, at + age_s)


def test_a_dropped_frame_is_charged_with_the_count_that_stood() -> None:
    said = np.array([2, 2, 4, 4, 2, 2])
    every = [sample(number, number, int(said[number])) for number in range(6)]
    assert cameras.wrong(every, said) == 0
    lost = [every[0], every[1], every[4], every[5]]  # two frames with four people went by while two were told of
    assert cameras.wrong(lost, said) == pytest.approx(4 / 5 / said.mean())
    around = [sample(0, 4, 2), sample(1, 5, 2), sample(2, 0, 2), sample(3, 1, 2), sample(4, 2, 4)]  # the clip begins anew
    assert cameras.wrong(around, said) == 0
    over = [sample(0, 3, 4), sample(5, 2, 4)]  # frames 4, 5, 0 and 1, with two people each, went by while four were told of
    assert cameras.wrong(over, said) == pytest.approx(8 / 5 / said.mean())
    assert cameras.wrong([sample(7, 7, 9), sample(8, 8, 9)], said) is None  # nobody walked so far
    assert cameras.wrong([every[0]], said) is None


def climbed(s: Session, *windows: dict[str, Any]) -> None:
    facts = {"windows": [{"rates": [15.0], "age_p99_s": 0.05, "due": 90, "lost": 0, "wrong": 0.02, **window} for window in windows]}
    measured.keep(s.run, {"what": "density", "setup": "x"}, lambda: Found({}, facts, {}))


def test_density_tells_both_rules_and_what_broke_the_stricter(made: Session) -> None:
    climbed(made, {"streams": 1}, {"streams": 1}, {"streams": 2, "age_p99_s": 0.4}, {"streams": 2}, {"streams": 3, "rates": [9.0] * 3},
            {"streams": 3, "rates": [9.0] * 3})  # fmt: skip
    row = load_views.densities(made).iloc[0]
    assert (row["published"], row["strict"], row["ends"]) == (2, 1, "the rate")
    assert row["fails by"] == "2: age 400 ms"
    assert load_views.climbs(made)["age_ms"].tolist() == pytest.approx([50, 400, 50])
    assert findings.best_setup(load_views.densities(made))["setup"] == "x"


def test_the_grid_is_compared_with_what_most_would_take() -> None:
    rows = [("a", 2, 1, 1, 50.0), ("a", 2, 2, 1, 60.0), ("a", 2, 1, 4, 55.0), ("a", 1, 1, 1, 30.0)]
    table = pd.DataFrame(rows, columns=["name", "threads", "side by side", "batch", "frames/s"]).assign(ms=1.0)
    assert load_views.best(table).iloc[0][["side by side", "batch", "gain"]].tolist() == [2, 1, 1.2]
    assert load_views.lined(table)["line"].tolist() == ["a, 1 at a time", "a, 2 at a time", "a, 1 at a time"]  # not those at one thread


def test_a_soak_tells_of_a_leak_and_of_a_camera_that_came_back(made: Session) -> None:
    at = np.arange(0, 60, 0.5)
    state = np.where((at > 21) & (at < 31), "failed", "running")
    course = pd.DataFrame({"at_s": at, "rss_bytes": 3e8 + 1e6 * at / 60, "fds": 20, "threads": 14, "cpu_s": at / 2,
                           f"{soak.BREAKS} state": state})  # fmt: skip
    for name in ("cam-1", "cam-2"):
        course[f"{name} dropped"], course[f"{name} seen"] = 0, (10 * at).astype(int)
    facts = {"seconds": 60.0, "events": {"cam-1": 595}, "pictures": 7, "broken_s": 20.0, "mended_s": 30.0}
    measured.keep(made.run, {"what": "soak", "seconds": 60.0}, lambda: Found({}, facts, {}, {"course": course}))
    told = load_views.soak(made)
    assert (told["mb_per_min"], told["failed_after_s"], told["back_after_s"]) == pytest.approx((1.0, 1.5, 1.0))
    assert (told["events"], told["others_lost"], told["cpu"]) == (595, 0, pytest.approx(0.5))
    assert soak.books(course, {"cam-1": 595, "cam-2": 595}) is None
    assert soak.books(course, {"cam-1": 595, "cam-2": 300}) == "cam-2 saw 595 frames, a listener heard of 300"


def test_nothing_measured_is_nothing_claimed(made: Session) -> None:
    assert not len(views.variants(made, TRUTH)) and not len(views.ways(made, TRUTH)) and load_views.soak(made) == {}
    assert findings.headline(views.variants(made, TRUTH), views.ways(made, TRUTH), load_views.densities(made))["fps"] is None
    assert findings.soaked({}) == {"minutes": None}
    with pytest.raises(LookupError, match="no picture"):
        views.jpeg(made, "frames")


# --- the recorded run ---


def test_the_recorded_headline_follows_from_its_samples(recorded: Session) -> None:
    truth: Labels = TRUTH
    told = findings.headline(views.variants(recorded, truth), views.ways(recorded, truth), load_views.densities(recorded))
    loops = {point["round"]: float(np.mean(point["samples"]["frame_s"])) for point in measured.points(recorded.run, "loop")
             if point["view"] == "whole"}  # fmt: skip
    mine = [point for point in measured.points(recorded.run, "way") if point["name"] == told["way"]]
    times = sorted(point["facts"]["frames"] / point["facts"]["wall_s"] * loops[point["round"]] for point in mine)
    assert told["times"] == pytest.approx(float(np.median(times))) and told["times_lo"] == pytest.approx(times[0])
    assert told["strict"] <= told["streams"] and told["f1"] >= findings.KEEPS_F1


def test_the_recorded_stages_add_up_to_the_wall(recorded: Session) -> None:
    serial = [point for point in measured.points(recorded.run, "way") if not point["facts"]["lanes"]]
    assert serial
    for point in serial:
        frame = measured.series(recorded.run, point, "frames")
        stages_s = frame[[f"{stage}, µs" for stage in STAGES]].to_numpy(float).sum() / 1e6
        assert 0 <= point["facts"]["wall_s"] - stages_s <= ways.UNEXPLAINED_S * len(frame)


def test_the_recorded_densities_follow_the_rule(recorded: Session) -> None:
    for point in measured.points(recorded.run, "density"):
        by_streams: dict[int, list[bool]] = {}
        for window in point["facts"]["windows"]:
            keeps = float(np.mean(window["rates"])) >= density.TOLERANCE * density.TARGET_FPS
            by_streams.setdefault(window["streams"], []).append(keeps)
        assert sorted(by_streams) == list(range(1, max(by_streams) + 1))
        for verdicts in by_streams.values():
            assert verdicts[-2:] in ([True, True], [False, False]) or len(verdicts) == density.MOST_WINDOWS
