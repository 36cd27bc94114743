"""What the cost notebook says of allocation and money follows from the record: made-up runs with known answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lib import measured, record
from lib.measured import Found
from lib.pipelines.cost import allocation, allocation_views, money_views, sizing
from lib.pipelines.cost.cells import DEFAULTS, LADDERS, Cell, Service
from lib.pipelines.cost.money import Tariff
from lib.pipelines.cost.session import Session
from lib.session import Opened

MIB = 1 << 20
BEST = Cell("retail", 1.0, "onnxruntime", 1, "int8")
OTHER = Cell("retail", 1.0, "openvino", 1, "int8")
RATES = Tariff(0.04, 0.005)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """An empty run on a machine that nothing disturbs."""
    monkeypatch.setattr(measured.audit, "undisturbed", lambda host, cores: None)
    environment = {"machine_id": "made", "stack_id": "made", "threads": 2}
    run = record.begin("03_pipeline_cost", parameters={}, environment=environment, root=tmp_path)
    return Session(Opened(run, (), None), None)


def add(s: Session, cell: Cell, per_s: float | None, *, turn: int = 0, peak_mib: int = 200, throttled: float = 0.0) -> None:
    window = {"per_s": per_s, "cpu_s": 0.8 * cell.cpus, "wall_s": 1.0}
    facts = {"per_s": per_s, "peak_bytes": peak_mib * MIB, "ready_s": 1.0, "name": cell.name, "wall_s": 10.0, "throttled_s": 10 * throttled}
    measured.keep(s.run, {**cell.setting, "round": turn}, lambda: Found({"windows": [window]}, facts, {"6 books": None}))


def filled(s: Session, service: Service = "retail") -> Session:
    for turn in range(3):
        for n, (_, rung) in enumerate(LADDERS[service]):
            add(s, rung, 10.0 * (n + 1) + turn, turn=turn)
        add(s, DEFAULTS[service], 20.0 + turn, turn=turn)
        add(s, BEST, 100.0 + turn, turn=turn, throttled=0.1)
        add(s, OTHER, 200.0 + turn, turn=turn)
    return s


def test_a_cell_survives_the_record(made: Session) -> None:
    one = Cell("fraud", 0.5, "compiled", 1, workers=2, wait_ms=2.0)
    add(made, one, 5.0)
    assert [allocation.cell(point) for point in measured.points(made.run, "cell")] == [one]


def test_medians_over_rounds_by_processor(made: Session) -> None:
    two = Cell("retail", 2.0, "openvino", 2, "int8")
    for turn, per_s in enumerate((90.0, 110.0, 100.0)):
        add(made, two, per_s, turn=turn)
    row = allocation_views.cells(made, "retail").iloc[0]
    assert (row["per_s"], row["per_core"], row["rounds"]) == (100, 50, 3)
    assert row["lo"] < 50 < row["hi"]


def test_what_carries_nothing_counts_as_nothing(made: Session) -> None:
    add(made, BEST, None)
    assert allocation_views.cells(made, "retail")["per_core"].tolist() == [0]
    assert allocation_views.best(made, "retail") is None
    assert allocation_views.factor(made, "retail")["times"] is None


def test_the_best_is_told_against_the_default(made: Session) -> None:
    told = allocation_views.factor(filled(made), "retail")
    assert told["times"] == pytest.approx(101 / 21)
    assert told["lo"] <= told["times"] <= told["hi"]
    assert (told["n"], told["best"]) == (3, "ONNX Runtime INT8, 1 thread on 1")
    assert allocation_views.factor(made, "retail", same=False)["times"] == pytest.approx(2 * told["times"], rel=0.01)
    table = allocation_views.compare(made, "retail")
    assert table["setting"].tolist()[:2] == [OTHER.name, BEST.name]
    assert sum("the default" in name for name in table["setting"]) == 1
    assert table["held back"].iloc[1] == "5%"  # of two processors' time


def test_a_grid_is_wide_by_limit(made: Session) -> None:
    add(made, BEST, 40.0)
    add(made, Cell("retail", 0.5, "onnxruntime", 1, "int8"), 10.0)
    table = allocation_views.wide(allocation_views.cells(made, "retail"))
    assert table[["name", "0.5", "1"]].to_numpy().tolist() == [[BEST.name, 20.0, 40.0]]


def test_a_price_is_taken_where_the_sla_holds(made: Session) -> None:
    fall = money_views.steps(filled(made), "retail", RATES, 0.5)
    hour = 2 * 0.04 + 200 * MIB * 1.25 / 1e9 * 0.005
    assert fall["usd"].tolist()[0] == pytest.approx(hour / (11 * 0.5 * 3600) * 1e6)
    assert fall["saved"].tolist()[1] == pytest.approx(fall["usd"][0] - fall["usd"][1])
    told = money_views.saved(fall)
    assert fall["step"].tolist()[-2:] == ["right-sized", "OpenVINO INT8, right-sized"]
    assert told["times"] == pytest.approx(hour / 11 / ((hour - 0.04) / 201))  # of a replica on two processors, and of one on one
    assert told["best"] == "OpenVINO INT8, right-sized"


def test_half_a_processor_is_told_against_a_whole_one(made: Session) -> None:
    filled(made)
    for turn in range(3):
        add(made, Cell("retail", 0.5, "onnxruntime", 1, "int8"), 25.0 + turn, turn=turn)
    told = allocation_views.halved(made, "retail")
    assert (told["half"], told["whole"], told["share"], told["n"]) == (26, 101, pytest.approx(26 / 101), 3)
    assert allocation_views.halved(made, "fraud")["share"] is None


def test_a_step_that_was_not_measured_has_no_price(made: Session) -> None:
    add(made, LADDERS["retail"][0][1], 10.0)
    fall = money_views.steps(made, "retail", RATES, 0.5)
    assert fall["usd"].notna().tolist()[:2] == [True, False]
    assert money_views.saved(fall.iloc[:2])["times"] is None


def test_nothing_recorded_makes_no_dollar(made: Session) -> None:
    fall = money_views.steps(made, "fraud", RATES, 0.5)
    assert fall["usd"].isna().all()
    falls: dict[Service, Any] = {"fraud": fall}
    assert money_views.gpus(falls, 0.5)["breaks even at, a second"].isna().all()
    assert "no price" in money_views.utilisations(falls, 0.5).to_string()
    assert money_views.as_it_comes(falls) == {"fraud_first": None, "fraud_best": None}
    assert money_views.years(made, RATES, {"fraud": 1.0, "retail": 1.0}).empty
    assert money_views.advice(made).empty
    with pytest.raises(LookupError):
        sizing.advice(made)


def test_what_onnx_costs_as_it_comes_is_told_against_first_and_best(made: Session) -> None:
    fall = money_views.steps(filled(made), "retail", RATES, 0.5)
    falls: dict[Service, Any] = {"retail": fall}
    told, usd = money_views.as_it_comes(falls), fall["usd"].tolist()
    assert told == {"retail_first": pytest.approx(usd[1] / usd[0]), "retail_best": pytest.approx(usd[1] / min(usd))}


def test_utilisation_divides(made: Session) -> None:
    falls: dict[Service, Any] = {"retail": money_views.steps(filled(made), "retail", RATES, 0.5)}
    row = money_views.utilisations(falls, 0.5).iloc[0]
    half, whole = (float(row[f"{share}% utilised"][1:]) for share in (50, 100))
    assert half == pytest.approx(2 * whole, rel=1e-2)


def memory(s: Session, limit: int, *, alive: bool) -> None:
    setting = {"what": "memory", "service": "retail", "engine": "onnxruntime", "precision": "int8", "limit_mib": limit}
    facts = {"survived": alive, "why": None if alive else "killed", "peak_bytes": min(limit, 210) * MIB, "oom_kills": 0, "name": BEST.name}
    measured.keep(s.run, setting, lambda: Found({}, facts, {"6 books": None}), timed=False)


def test_advice_rests_on_peak_and_edge(made: Session) -> None:
    filled(made)
    for limit, alive in ((1024, True), (256, True), (192, False), (224, False)):
        memory(made, limit, alive=alive)
    told = sizing.advice(made)["retail"]
    assert (told.cpu_request, told.cpu_limit, told.per_s) == (1.0, 1.0, 101.0)
    assert told.memory_request_bytes == 208 * MIB
    assert told.memory_limit_bytes == 320 * MIB  # a quarter above the edge of 256, which is more than above the peak
    assert told.options == {"--engine": "onnxruntime", "--threads": "1", "--no-spin": "", "--precision": "int8", "--lanes": "1",
                            "--batch": "1"}  # fmt: skip
    assert set(told.why) == {"cpu", "memory", "threads", "replicas"}
    assert "80% busy" in told.why["cpu"]
    edge = allocation_views.edges(made).iloc[0]
    assert (edge["smallest limit that will do, MiB"], edge["largest that will not, MiB"], edge["how it ended"]) == (256, 224, "killed")


def test_years_and_nines(made: Session) -> None:
    table = money_views.years(filled(made), RATES, {"fraud": 1.0, "retail": 500.0})
    assert table["replicas"].tolist() == ["5", "5 + 1", "5 + 2", "5 + 3"]
    told = money_views.nine(table, "retail")
    assert told["share"] == pytest.approx(0.2)
    assert told["after"] > told["before"]


def cliff(s: Session, threads: int, spin: bool, ms: float) -> None:
    setting = {"what": "cliff", "cpus": 1.0, "threads": threads, "spin": spin}
    facts = {"wall_s": 10.0, "throttled_s": 4.0 if spin else 0.0, "cpu_s": 5.0, "name": "made"}
    measured.keep(s.run, setting, lambda: Found({"picture_s": [ms / 1e3] * 70}, facts, {"9 quota": None}))


def test_the_cliff_is_told_from_one_thread_to_the_most(made: Session) -> None:
    for threads, spin, ms in ((1, False, 20.0), (2, False, 22.0), (2, True, 60.0)):
        cliff(made, threads, spin, ms)
    table = allocation_views.cliff(made)
    assert table[["threads", "spin", "p50"]].to_numpy().tolist() == [[1, False, 20], [2, False, 22], [1, True, 20], [2, True, 60]]
    told = allocation_views.fallen(table)
    assert (told["threads"], told["one"], told["spinning"], told["sleeping"], told["times"]) == (2, 20, 60, 22, 3)
    assert told["throttled"] == pytest.approx(0.2)  # 4 s of 10, counted over two processors


def test_no_cliff_without_threads(made: Session) -> None:
    assert allocation_views.fallen(allocation_views.cliff(made))["times"] is None
    cliff(made, 1, False, 20.0)
    assert allocation_views.fallen(allocation_views.cliff(made))["times"] is None
