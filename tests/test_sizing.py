"""A simulated server against timelines by hand, queueing theory, planted paces and recorded loads; machines against arithmetic."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.llm import cost_readings, heldout, pace, recorded, simulation, sizing, throughput
from lib.llm.events import Answer
from lib.llm.metrics import SERVER, Slo
from lib.llm.pace import Pace
from lib.llm.simulation import Asked, serve
from lib.llm.sizing import Day, Work
from lib.session import NothingRecorded
from tests.test_throughput import made

FLAT = Pace(knots=(1, 4), decode_s=(0.01, 0.01), context_s=0.0, prompt_s=0.0, token_s=0.001, square_s=0.0, overhead_s=0.0)


# --- the simulation ---


def test_a_newcomers_prompt_rides_on_the_step_of_those_who_run() -> None:
    served = serve(Asked((0.0, 0.05), (100, 50), (3, 2)), FLAT, slots=2)
    assert served.first_s.tolist() == pytest.approx([0.10, 0.16])  # the second waits for the step, then 0.01 + 0.05
    assert served.last_s.tolist() == pytest.approx([0.17, 0.17])
    assert served.ttft_s.tolist() == pytest.approx([0.10, 0.11])
    assert served.tpot_s.tolist() == pytest.approx([0.035, 0.01])
    assert served.busy_s == pytest.approx(0.17)


def test_without_a_free_slot_one_waits_for_the_last_token() -> None:
    served = serve(Asked((0.0, 0.05), (100, 50), (3, 2)), FLAT, slots=1)
    assert served.first_s.tolist() == pytest.approx([0.10, 0.17])
    assert served.last_s.tolist() == pytest.approx([0.12, 0.18])


def test_what_a_request_waits_for_besides_steps_comes_on_top() -> None:
    slow = Pace(knots=(1,), decode_s=(0.01,), context_s=0.0, prompt_s=0.0, token_s=0.001, square_s=0.0, overhead_s=0.2)
    served = serve(Asked((0.0, 5.0), (100, 100), (2, 2)), slow, slots=1)
    assert served.ttft_s.tolist() == pytest.approx([0.3, 0.3])
    assert served.busy_s == pytest.approx(0.22)


def test_a_long_prompt_is_cut_to_the_budget_of_a_step() -> None:
    costs = Pace(knots=(1,), decode_s=(0.0,), context_s=0.0, prompt_s=1.0, token_s=0.001, square_s=1e-6, overhead_s=0.0)
    served = serve(Asked((0.0,), (100,), (1,)), costs, slots=1, budget=40)
    assert served.first_s[0] == pytest.approx(3 * 1.0 + 0.1 + 1e-6 * 100**2)  # three pieces, and every token looks at all before it
    assert served.last_s[0] == served.first_s[0] and np.isnan(served.tpot_s[0])


def test_a_cache_grows_with_every_token_and_is_freed_at_the_end() -> None:
    cached = Pace(knots=(1,), decode_s=(0.0,), context_s=0.001, prompt_s=0.0, token_s=0.0, square_s=0.0, overhead_s=0.0)
    served = serve(Asked((0.0, 9.0), (10, 10), (3, 3)), cached, slots=1)
    assert served.last_s.tolist() == pytest.approx([0.011 + 0.012, 9.023])


def test_a_user_asks_when_answered() -> None:
    served = serve(Asked((0.0,) * 3, (100,) * 3, (2,) * 3), FLAT, slots=4, streams=1)
    assert served.due_s.tolist() == pytest.approx([0.0, 0.11, 0.22])
    assert served.last_s.tolist() == pytest.approx([0.11, 0.22, 0.33])


def test_a_promise_is_kept_as_a_whole() -> None:
    served = serve(Asked((0.0, 0.05), (100, 50), (3, 2)), FLAT, slots=2)
    assert served.good(Slo(0.2, 0.02)).tolist() == [False, True]
    assert served.good(Slo(0.105, 1.0)).tolist() == [True, False]
    assert serve(Asked((0.0,), (100,), (1,)), FLAT, slots=1).good(Slo(0.2, 1e-9)).tolist() == [True]


@pytest.mark.parametrize(("arrivals", "prompts", "outputs"), [
    ((), (), ()), ((0.0,), (1, 2), (1,)), ((0.0,), (0,), (1,)), ((0.0,), (1,), (0,)), ((1.0, 0.0), (1, 1), (1, 1)),
])  # fmt: skip
def test_a_load_that_no_server_could_be_asked_is_refused(arrivals: Any, prompts: Any, outputs: Any) -> None:
    with pytest.raises(ValueError, match=r"a load has|at least one token|order of time"):
        Asked(arrivals, prompts, outputs)


def test_a_server_without_places_is_refused() -> None:
    for slots, budget in ((0, 10), (4, 3)):
        with pytest.raises(ValueError, match="slots"):
            serve(Asked((0.0,), (1,), (1,)), FLAT, slots=slots, budget=budget)
    with pytest.raises(ValueError, match="arrival rate"):
        simulation.poisson(0.0, 1, prompt_tokens=1, output_tokens=1)


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(1, 200), st.integers(1, 9)), min_size=1, max_size=25), st.integers(1, 5))
def test_everybody_is_served_once_in_order_and_nothing_takes_no_time(rows: list[tuple[float, int, int]], slots: int) -> None:
    rows = sorted(rows)
    asked = Asked(*(tuple(column) for column in zip(*rows, strict=True)))  # type: ignore[arg-type]
    served = serve(asked, FLAT, slots=slots, budget=64)
    assert (np.diff(served.first_s) >= -1e-9).all()  # places are given in the order of arrival
    assert (served.ttft_s >= np.array(asked.prompt_tokens) * FLAT.token_s - 1e-9).all()
    assert (served.last_s - served.first_s >= (np.array(asked.output_tokens) - 1) * 0.01 - 1e-9).all()
    assert served.busy_s >= sum(asked.prompt_tokens) * FLAT.token_s - 1e-9
    assert served.busy_s <= served.last_s.max() - asked.arrivals_s[0] + 1e-9
    running = [((served.due_s <= t) & (served.first_s > t)).sum() for t in served.first_s]
    assert max(running) <= len(rows)
    for t in served.first_s:  # never more between their first and last token than there are places
        assert ((served.first_s <= t) & (served.last_s > t)).sum() <= slots


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_place_and_one_token_is_the_queue_of_the_textbook(load: float) -> None:
    """M/D/1: the mean wait is ρ·s ÷ (2·(1 − ρ)) (Pollaczek and Khinchine)."""
    asked = simulation.poisson(load / 0.1, 60_000, prompt_tokens=100, output_tokens=1, seed=3)
    served = serve(asked, FLAT, slots=1)
    wait = float((served.ttft_s - 0.1).mean())
    assert wait == pytest.approx(load * 0.1 / (2 * (1 - load)), rel=0.06)
    assert served.busy_s / served.last_s.max() == pytest.approx(load, rel=0.02)


def test_the_wobble_keeps_its_mean_and_its_seed() -> None:
    rough = Pace(**{**_fields(FLAT), "wobble": (0.5, 1.0, 1.5), "prompt_wobble": (0.8, 1.2)})
    asked = simulation.poisson(1.0, 2000, prompt_tokens=10, output_tokens=20)
    plain = serve(asked, FLAT, slots=4)
    first, again = (serve(asked, rough, slots=4, rng=np.random.default_rng(1)) for _ in range(2))
    assert (first.last_s == again.last_s).all()
    assert first.busy_s == pytest.approx(plain.busy_s, rel=0.03)
    assert np.nanstd(first.tpot_s) > np.nanstd(plain.tpot_s)
    assert serve(asked, rough, slots=4).busy_s == plain.busy_s


def _fields(one: Pace) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.__slots__}


# --- the pace ---


def answered(number: int, sent_s: float, prompt: int, *stamps_s: float) -> Answer:
    return Answer(number, 0.0, sent_s, stamps_s, tuple(range(1, len(stamps_s) + 1)), "", len(stamps_s), "usage", prompt, 0, {}, None)


def test_what_a_gap_held_is_known_from_everybodys_stamps() -> None:
    # The second is sent while the first runs; its first token comes 2 ms after the end of the first's second step.
    first, second = answered(0, 0.0, 100, 1.0, 1.1, 1.4, 1.5), answered(1, 1.15, 50, 0.252, 0.352)
    alone, *gaps = pace.steps([first, second])
    assert alone == (1.0, 0, 0.0, 1, 100, 10_000.0, True, 1.0)
    assert [(round(g.seconds, 6), g.decoding, g.context, g.prompts, g.tokens, g.squares) for g in gaps] == [
        (0.1, 1, 101, 0, 0, 0), (0.3, 1, 102, 1, 50, 2500), (0.1, 2, 103 + 51, 0, 0, 0), (0.1, 2, 103 + 51, 0, 0, 0)]
    assert [g.weight for g in gaps] == [1, 1, 0.5, 0.5]


def test_a_prompt_of_ones_own_step_is_in_no_gap_of_ones_own() -> None:
    together = [answered(0, 0.0, 100, 1.0, 1.1, 1.2), answered(1, 0.0, 50, 1.001, 1.101, 1.201)]  # one step, told 1 ms apart
    assert [step.prompts for step in pace.steps(together)] == [0, 0, 0, 0]


def test_quantiles_of_the_wobble_keep_its_mean() -> None:
    ratios, weights = np.array([0.8, 1.0, 9.0]), np.array([1.0, 1.0, 0.5])
    assert np.mean(pace._quantiles(ratios, weights)) == pytest.approx(np.average(ratios, weights=weights))
    assert pace._quantiles(np.array([]), np.array([])) == (1.0,)


def test_gaps_of_several_tokens_and_failures_are_left_out() -> None:
    bundled = Answer(0, 0.0, 0.0, (1.0, 2.0, 3.0), (1, 3, 4), "", 4, "usage", 10, 0, {}, None)
    assert [step.seconds for step in pace.steps([bundled])] == [1.0, 1.0]  # the first token, and the last gap
    failed = Answer(1, 0.0, 0.0, (1.0, 2.0), (1, 2), "", 2, "usage", 10, 0, {}, "cut off")
    assert pace.steps([failed]) == [] == pace.steps([])


PLANTED = Pace(knots=(1, 2, 4, 8), decode_s=(0.010, 0.016, 0.024, 0.030), context_s=2e-6, prompt_s=0.004, token_s=4e-4, square_s=1e-7,
               overhead_s=0.006)  # fmt: skip


def streamed(streams: int, prompts: list[int], tokens: list[int], costs: Pace, rng: np.random.Generator) -> list[Answer]:
    """A server at a planted pace, written apart from the simulation: every step in turn, every token's stamp kept."""
    now, answers, todo = 0.0, list[Answer](), list(range(len(prompts)))
    live: dict[int, list[Any]] = {}
    arriving = [(0.0, todo.pop(0)) for _ in range(streams)]
    while arriving or live:
        fresh = [one for one in arriving if one[0] + costs.overhead_s <= now + 1e-12]
        if not fresh and not live:
            now = min(at for at, _ in arriving) + costs.overhead_s
            continue
        arriving = [one for one in arriving if one not in fresh]
        sizes = [prompts[n] for _, n in fresh]
        took = costs.running_s(len(live), sum(prompts[n] + len(one[1]) for n, one in live.items()))
        took += costs.prompts_s(len(sizes), sum(sizes), sum(size**2 for size in sizes))
        now += took * float(rng.uniform(0.98, 1.02))
        for one in live.values():
            one[1].append(now)
        for at, n in fresh:
            live[n] = [at, [now]]
        for n in [n for n, one in live.items() if len(one[1]) == tokens[n]]:
            at, stamps = live.pop(n)
            answers.append(answered(n, at, prompts[n], *(stamp - at for stamp in stamps)))
            if todo:
                arriving.append((now + 1e-6, todo.pop(0)))
    return sorted(answers, key=lambda a: a.sent_s)


@pytest.fixture(scope="module")
def planted() -> dict[int, list[Answer]]:
    rng = np.random.default_rng(0)
    asked = {n: (rng.integers(20, 600, 8 * n).tolist(), rng.integers(12, 36, 8 * n).tolist()) for n in (1, 2, 4, 8)}
    return {n: streamed(n, *asked[n], PLANTED, rng) for n in asked}  # of unequal lengths, so that prompts meet running answers


def test_a_planted_pace_is_found_again(planted: dict[int, list[Answer]]) -> None:
    found = pace.fit([step for answers in planted.values() for step in pace.steps(answers)])
    assert found.knots == PLANTED.knots
    for running in (1, 2, 3, 4, 6, 8):
        assert found.running_s(running, 300 * running) == pytest.approx(PLANTED.running_s(running, 300 * running), rel=0.04)
    for tokens in (50, 200, 500):
        assert found.prompts_s(1, tokens, tokens**2) == pytest.approx(PLANTED.prompts_s(1, tokens, tokens**2), rel=0.05)
    assert 0 < found.spread < 0.02
    assert np.mean(found.wobble) == pytest.approx(1.0, abs=0.01)


def test_stalls_do_not_raise_the_costs_but_stay_in_the_wobble(planted: dict[int, list[Answer]]) -> None:
    seen = [step for answers in planted.values() for step in pace.steps(answers)]
    stalled = [step._replace(seconds=step.seconds * 5) if n % 25 == 0 and not step.alone else step for n, step in enumerate(seen)]
    clean, found = pace.fit(seen), pace.fit(stalled)
    assert found.running_s(4, 1200) == pytest.approx(clean.running_s(4, 1200), rel=0.03)
    assert np.mean(found.wobble) == pytest.approx(1.16, abs=0.05)


def test_too_few_steps_are_no_fit() -> None:
    with pytest.raises(pace.TooFew, match="3 steps"):
        pace.fit(pace.steps([answered(0, 0.0, 10, 1.0, 1.1, 1.2, 1.3)]))


# --- held out ---


def cells_of(planted: dict[int, list[Answer]]) -> pd.DataFrame:
    rows = []
    for streams, answers in planted.items():
        rows.append(made("a 16-bit", streams, 0, answers, steady_s=[0, 1], sent_tokens=[a.prompt_tokens for a in answers], asked_tokens=24))
    for turn in range(3):
        load = simulation.poisson(3.0, 60, prompt_tokens=200, output_tokens=24, seed=turn)
        served = serve(load, PLANTED, slots=8)
        answers = [answered(n, at, 200, *np.linspace(first - at, last - at, 24)) for n, (at, first, last) in
                   enumerate(zip(load.arrivals_s, served.first_s, served.last_s, strict=True))]  # fmt: skip
        rows.append(made("a 16-bit", 3.0, turn, answers, kind="open", warmup=10, sent_tokens=200, asked_tokens=24, steady_s=[0, 1]))
    return pd.DataFrame(rows)


def test_a_server_that_is_as_the_model_says_is_foretold(planted: dict[int, list[Answer]]) -> None:
    cells = cells_of(planted)
    table = heldout.foretold(cells, {"a 16-bit": PLANTED}, {}, {"a 16-bit": 8}, tries=20)
    assert table["error"].abs().max() < 1e-9 and table["within"].all()
    assert set(table["n"]) == {150} and table["in_range"].sum() >= 3  # 95 % of tries: not all four need hold
    assert heldout.score(table)["within"].tolist() == [1, 1, 1, 1]
    slower = Pace(**{**_fields(PLANTED), "decode_s": tuple(2 * cost for cost in PLANTED.decode_s)})
    missed = heldout.foretold(cells, {"a 16-bit": slower}, {"a 16-bit": [PLANTED]}, {"a 16-bit": 8}, tries=5)
    missed = missed.set_index(["what", "quantile"])
    assert not missed.loc[("TPOT", "p50"), "within"] and missed.loc[("TPOT", "p50"), "error"] > 0.5
    shown = cost_readings.foretold(missed.reset_index())
    assert shown["aim"].str.startswith("MISSED").any()
    assert cost_readings.hits(heldout.score(table))["tpot_p99_points"] == 1
    assert cost_readings.aimed(heldout.score(table)).startswith("4 of 4")


def test_an_overload_that_is_as_the_model_says_is_worked_off_so(planted: dict[int, list[Answer]]) -> None:
    cells = cells_of(planted)
    cells.loc[cells["kind"] == "open", "kind"] = "pooled"
    row = heldout.worked_off(cells, {"a 16-bit": PLANTED}, {"a 16-bit": 8}, tries=2).iloc[0]
    ends = [max(a.sent_s + a.stamps_s[-1] for a in answers) for answers in cells[cells["kind"] == "pooled"]["answers"]]
    assert row["measured"] == pytest.approx(np.mean([60 / end for end in ends])) and row["rounds"] == 3
    assert row["error"] == pytest.approx(0, abs=1e-9)
    half = Pace(**{**_fields(PLANTED), "token_s": 4 * PLANTED.token_s})
    assert heldout.worked_off(cells, {"a 16-bit": half}, {"a 16-bit": 8}, tries=2)["error"].iloc[0] < -0.1
    assert heldout.worked_off(cells, {}, {}).empty


def test_a_first_token_alone_is_overhead_and_prompt() -> None:
    told = PLANTED.overhead_s + PLANTED.prompts_s(1, 100, 100**2)
    requests = pd.DataFrame([{"name": name, "prompt_tokens": 100, "ttft_s": told} for name in ("a 16-bit", "b 16-bit") for _ in range(8)])
    table = heldout.alone(requests, {"a 16-bit": PLANTED})
    assert table[["contender", "prompt", "n"]].values.tolist() == [["a 16-bit", 100, 8]]
    assert table["error"].iloc[0] == pytest.approx(0)
    assert cost_readings.alone(table)["error"].tolist() == ["+0%"]


def test_who_has_no_pace_is_not_foretold(planted: dict[int, list[Answer]]) -> None:
    assert heldout.foretold(cells_of(planted), {}, {}, {}).empty
    assert cost_readings.aimed(heldout.score(heldout.foretold(cells_of(planted), {}, {}, {}))).startswith("Nothing was foretold")


# --- machines ---


def test_a_capacity_is_where_the_promise_breaks() -> None:
    work, slo = Work(100, 1), Slo(0.3, 1.0)
    rate = sizing.capacity(FLAT, work, slo, slots=1, requests=3000)
    assert rate is not None
    assert sizing.attained(rate, FLAT, work, slo, slots=1, requests=3000) >= 0.99
    assert sizing.attained(rate * 1.1, FLAT, work, slo, slots=1, requests=3000) < 0.99
    looser = sizing.capacity(FLAT, work, Slo(1.0, 1.0), slots=1, requests=3000)
    assert looser is not None and rate < looser < 10.0  # a request takes 0.1 s of the one place: ten a second is the end
    assert sizing.capacity(FLAT, work, Slo(0.05, 1.0), slots=1, requests=300) is None
    assert sizing.capacity(FLAT, Work(100, 10), Slo(1.0, 0.005), slots=4, requests=300) is None


def test_capacities_tell_of_rounds() -> None:
    slower = Pace(**{**_fields(FLAT), "token_s": 0.002})
    paces = {("a", -1): FLAT, ("a", 0): FLAT, ("a", 1): slower}
    told = sizing.capacities(paces, {"a": 4}, Work(100, 4), {"server": SERVER}, whole=-1, requests=600).iloc[0]
    assert told["lo"] < told["hi"] and told["rounds"] == 2
    assert told["hi"] == pytest.approx(told["per_s"], rel=0.15)


def test_the_load_and_the_tail_rise_together() -> None:
    told = sizing.foretold([1.0, 4.0, 8.0], FLAT, Work(100, 2), slots=4, requests=1500)
    assert told["ttft_p99_ms"].is_monotonic_increasing and told["busy"].is_monotonic_increasing
    assert told["ttft_p50_ms"].iloc[0] >= 100


@pytest.mark.parametrize(("load", "each", "needed"), [(100, 10, 10), (101, 10, 11), (0, 10, 1), (5, None, None)])
def test_machines_by_hand(load: float, each: float | None, needed: int | None) -> None:
    assert sizing.machines(load, each) == needed


@pytest.mark.parametrize("load", [-1, inf, nan])
def test_a_load_that_is_none_is_refused(load: float) -> None:
    with pytest.raises(ValueError, match="a load of"):
        sizing.machines(load, 1.0)


@given(st.floats(1, 1e8), st.floats(0.1, 100), st.floats(1, 2), st.integers(0, 23))
def test_a_day_adds_up(users: float, each: float, peak: float, busiest: int) -> None:
    hours = Day(users, each, peak, busiest).per_s()
    assert sum(hours) * 3600 == pytest.approx(users * each)
    assert max(hours) == hours[busiest] == pytest.approx(peak * users * each / 86400)
    assert min(hours) >= -1e-9


@pytest.mark.parametrize(("users", "each", "peak"), [(0, 1, 1.5), (1, 0, 1.5), (1, 1, 0.9), (1, 1, 2.1), (inf, 1, 1.5)])
def test_a_day_that_is_none_is_refused(users: float, each: float, peak: float) -> None:
    with pytest.raises(ValueError, match=r"users of|a peak of"):
        Day(users, each, peak)


def test_a_fleet_by_hand() -> None:
    day = Day(86_400, 10, 1.0)  # ten requests a second, all day
    flat = sizing.fleet(day, 3.0)
    assert flat.needed == (4,) * 24 and flat.running == (5,) * 24 and flat.machine_hours == 120
    assert flat.utilisation == pytest.approx(10 / 15)
    assert sizing.fleet(day, 2.0, zones=3).running == (9,) * 24  # five are needed and two zones must carry it: three machines in each
    wave = Day(86_400, 10, 2.0, busiest=12)
    moving, fixed = sizing.fleet(wave, 3.0), sizing.fleet(wave, 3.0, scaled=False)
    assert (max(moving.running), fixed.running) == (8, (8,) * 24)
    assert min(moving.running) == 2 and moving.machine_hours < fixed.machine_hours
    for broken in ({"zones": 0}, {"each_per_s": 0.0}):
        with pytest.raises(ValueError, match="zone"):
            sizing.fleet(day, **{"each_per_s": 3.0, **broken})  # type: ignore[arg-type]


def test_a_plan_prices_what_it_runs_and_says_who_cannot() -> None:
    told = sizing.plans(Day(86_400, 10, 1.0), {"a": 3.0, "b": None}, {"a": 0.1, "b": 0.1}, Work(90, 10))
    mine = told[told["contender"] == "a"].set_index("way")
    assert mine.loc["by the hour, N+1", "day"] == pytest.approx(12.0)
    assert mine.loc["by the hour, N+1", "million"] == pytest.approx(12.0 / 86.4)
    assert told[told["contender"] == "b"]["day"].isna().all()
    capacities = pd.DataFrame([{"slo": "server", "contender": "a", "per_s": 3.0, "lo": 2.0, "hi": 4.0, "rounds": 2, "breaks": "TTFT"},
                               {"slo": "server", "contender": "b", "per_s": None, "lo": 0.0, "hi": 0.0, "rounds": 2, "breaks": "TPOT"}])
    shown = cost_readings.carries(capacities)
    assert shown["why not"].tolist()[1].startswith("not kept")
    assert cost_readings.counts(capacities, (30.0,))["30/s"].tolist() == ["11 (9–16)", "–"]
    assert cost_readings.counts(capacities.assign(lo=0.0), (30.0,))["30/s"].iloc[0] == "11 (9–no end)"
    assert cost_readings.fleet(told.assign(slo="server"))["machines"] == 5
    assert cost_readings.fleet(told.assign(slo="interactive")) == {}


# --- what is recorded ---


@pytest.fixture(scope="module")
def run() -> tuple[Any, pd.DataFrame, dict[Any, Pace]]:
    s = recorded.session(profile="quick", mode="recorded")
    cells = throughput.cells(s)
    return s, cells, recorded.paces(cells)


def test_the_recorded_steps_are_the_gaps_of_the_recorded_stamps(run: tuple[Any, pd.DataFrame, dict[Any, Pace]]) -> None:
    _, cells, _ = run
    cell = cells[cells["ok"] & (cells["kind"] == "closed") & (cells["level"] == 1)].iloc[0]
    gaps = sorted(step.seconds for step in pace.steps(cell["answers"]) if not step.alone)
    stamps = [np.diff(a.stamps_s) for a in cell["answers"]]
    assert gaps == pytest.approx(sorted(np.concatenate(stamps).tolist()))
    assert all(step.decoding == 1 and step.prompts == 0 for step in pace.steps(cell["answers"]) if not step.alone)
    assert sum(step.alone for step in pace.steps(cell["answers"])) == len(cell["answers"])


def test_the_recorded_paces_are_costs_and_the_record_is_foretold_as_told(run: tuple[Any, pd.DataFrame, dict[Any, Pace]]) -> None:
    s, cells, paces = run
    fitted = recorded.together(paces)
    assert set(fitted) and "transformers 16-bit" not in fitted
    for found in fitted.values():
        assert min(found.decode_s) > 0 and found.token_s + found.prompt_s + found.square_s > 0
    table = heldout.foretold(cells, fitted, recorded.apart(paces), recorded.slots(s, fitted), tries=5)
    assert (table["within"] == [abs(e) <= heldout.AIMS[q] for e, q in zip(table["error"], table["quantile"], strict=True)]).all()
    one = table[(table["what"] == "TTFT") & (table["quantile"] == "p50")].iloc[0]
    mine = cells[cells["ok"] & (cells["contender"] == one["contender"]) & (cells["kind"] == "open")]
    mine = mine[mine["level"] == mine["level"].iloc[0]]
    waits = sorted(a.stamps_s[0] - a.due_s for cell in mine.to_dict("records") for a in throughput.measured(cell))
    assert one["measured_ms"] == pytest.approx(1e3 * waits[-(-len(waits) // 2) - 1]) and one["n"] == len(waits)


def test_only_a_run_of_this_machine_is_live(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(recorded, "RUNS", tmp_path)
    with pytest.raises(NothingRecorded, match="measure that notebook first"):
        recorded.session(profile="quick", mode="live")
    told = recorded.session(profile="smoke", mode="auto")
    assert told.note is not None and "recorded elsewhere" in told.note and told.here is None
    assert recorded.session(profile="full", mode="recorded").note is None
    monkeypatch.setattr(recorded, "REFERENCE", tmp_path)
    with pytest.raises(NothingRecorded, match="no recorded run"):
        recorded.session(profile="quick", mode="recorded")
    with pytest.raises(ValueError, match="unknown mode"):
        recorded.session(profile="quick", mode="guess")
