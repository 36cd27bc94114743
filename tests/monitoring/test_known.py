"""Exporters say what the table says: names, types, helps and labels, and nothing that grows with what clients send.

What engines said when they were recorded lies in snapshots/, what ours say is asked of them here.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from lib import process
from lib.install import Missing
from lib.monitoring import known, tools
from lib.monitoring.call import PREDICTIONS
from lib.monitoring.gateway_metrics import GatewayMetrics
from lib.pipelines.fraud.instruments import Instruments as Fraud
from lib.pipelines.fraud.pipeline import Reply
from lib.pipelines.fraud.verdict import Verdict
from lib.pipelines.retail.fleet import BadName, Fleet
from lib.pipelines.retail.hub import Full, Hub
from lib.pipelines.retail.instruments import Instruments as Retail
from lib.pipelines.retail.instruments import Model
from tests.monitoring.exposition import families
from tests.pipelines.retail.null import Detector, Eye, Roll

SNAPSHOTS = Path(__file__).with_name("snapshots")
# Labels whose values are not all known beforehand, and why they are few all the same.
OPEN = {"camera": "32 at most, each one asked for by an operator", "version": "one a process", "precision": "one", "licence": "one",
        "model": "named on the command line", "reason": "one at a time", "gpu": "cards", "UUID": "cards", "device": "cards",
        "modelName": "cards", "le": "the service's edges"}  # fmt: skip
OURS = ("gateway", "fraud", "retail", "gpu", "deployment")


def gateway() -> str:
    return GatewayMetrics(tuple(PREDICTIONS), "m").text(0).decode()


def fraud() -> str:
    return Fraud("v").text(0, 0).decode()


def retail() -> Iterator[str]:
    made, fleet = Retail(Model("v", "int8", "none")), Fleet([Detector()], hub=Hub())
    made.of(fleet)
    fleet.start("cam-1", Roll, Eye(), fps=1)  # type: ignore[arg-type]
    made.pictures.labels("seen"), made.pictures.labels("refused")
    yield made.text().decode()
    fleet.close()


@pytest.fixture(params=["gateway", "fraud", "retail", *sorted(file.stem for file in SNAPSHOTS.glob("*.txt"))])
def exposed(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """An exporter, and what it says."""
    ours: dict[str, Callable[[], str]] = {"gateway": gateway, "fraud": fraud}
    if request.param == "retail":
        yield from (("retail", text) for text in retail())
    else:
        yield request.param, ours[request.param]() if request.param in ours else (SNAPSHOTS / f"{request.param}.txt").read_text()


def test_an_exporter_says_what_the_table_says(exposed: tuple[str, str]) -> None:
    exporter, text = exposed
    table = {m.name: m for m in known.metrics().values() if exporter in m.exporters}
    for name, family in families(text).items():
        if name.endswith("_created"):  # prometheus_client's, of every counter and histogram: when it was made
            continue
        metric = table.pop(name)
        assert family.type == metric.type, name
        assert set(family.labels) == set(metric.labels) or not family.samples, name  # a camera that has seen nobody yet has no people
        assert name.startswith("process_") or family.help == metric.help
        for label, values in family.labels.items():
            assert not (bound := metric.labels[label]) or values == set(bound), "all are there from the start, and no others"
    assert not table, f"nobody says {set(table)}"


def test_labels_without_bound_are_these() -> None:
    ours = [m for m in known.metrics().values() if set(m.exporters) & set(OURS)]
    assert {label for m in ours for label, bound in m.labels.items() if not bound} == set(OPEN)


@pytest.mark.parametrize("metric", [m for m in known.metrics().values() if set(m.exporters) & set(OURS) and not m.name.startswith("DCGM")],
                         ids=lambda m: m.name)
def test_names_follow_the_conventions(metric: known.Metric) -> None:
    """Base units in the name, _total on counters and on nothing else, no milliseconds."""
    assert re.fullmatch(r"[a-z][a-z0-9_]*", metric.name)
    assert (metric.type == "counter") == metric.name.endswith("_total")
    stem = metric.name.removesuffix("_total")
    assert (metric.unit == "seconds") == stem.endswith("_seconds"), "time is in seconds, and says so"
    assert (metric.unit == "bytes") == stem.endswith("_bytes")
    assert metric.unit not in ("milliseconds", "percent")
    assert not stem.endswith("_info") or metric.type == "gauge"


def test_fraud_makes_no_series_of_what_it_is_sent() -> None:
    made = Fraud("v")
    before = families(made.text(0, 0).decode())
    for n, verdict in enumerate(Verdict):
        made.decided([Reply(200, b"", n / 10, verdict), Reply(422, b"")], [1, 2], {"parse": 1})
    after = families(made.text(7, 3).decode())
    assert {name: f.samples.keys() for name, f in after.items()} == {name: f.samples.keys() for name, f in before.items()}
    with pytest.raises(KeyError):
        made.answered(418, 1)


def test_cameras_of_hostile_names_make_no_series_and_others_are_few() -> None:
    made, fleet = Retail(Model("v", "int8", "none")), Fleet([Detector()], hub=Hub(), most_cameras=3)
    made.of(fleet)
    try:
        for name in ('a"b', "a\nb", "", "a" * 33, "ü", "../x", "A"):
            with pytest.raises(BadName):
                fleet.start(name, Roll, Eye(), fps=1)  # type: ignore[arg-type]
        for n in range(3):
            fleet.start(f"cam-{n}", Roll, Eye(), fps=1)  # type: ignore[arg-type]
        with pytest.raises(Full):
            fleet.start("cam-3", Roll, Eye(), fps=1)  # type: ignore[arg-type]
        assert families(made.text().decode())["retail_frames_total"].labels["camera"] == {"cam-0", "cam-1", "cam-2"}
    finally:
        fleet.close()


@pytest.mark.skipif(isinstance(tools.find("node_exporter"), Missing), reason="node_exporter is not on this machine")
def test_node_exporter_says_what_the_table_has_of_it(tmp_path: Path) -> None:
    collectors = ("cpu", "diskstats", "filesystem", "loadavg", "meminfo", "netdev", "pressure", "stat", "textfile", "vmstat")
    (tmp_path / "facts.prom").write_text("deployment_model_info 1\n")

    def argv(port: int) -> list[str]:
        return [str(tools.find("node_exporter")), f"--web.listen-address=127.0.0.1:{port}", "--collector.disable-defaults",
                f"--collector.textfile.directory={tmp_path}", *(f"--collector.{name}" for name in collectors)]

    with process.running(argv, name="node_exporter", logs=tmp_path, health="/") as node:
        said = families(httpx.get(f"{node.url}/metrics", trust_env=False).text)
    for metric in known.metrics().values():
        # a kernel need not have pressure stall information, nor a container disks
        if "node" in metric.exporters and (metric.name in said or not re.search("pressure|disk", metric.name)):
            assert said[metric.name].type == metric.type
            assert set(said[metric.name].labels) == set(metric.labels)


def test_a_series_is_found_by_any_of_its_names() -> None:
    assert known.find("gateway_request_seconds_bucket") is known.find("gateway_request_seconds_count") is not None
    assert known.find("gateway_request_seconds") is None  # a histogram has no series of its own name
    assert known.find("gateway_in_flight") is known.metrics()["gateway_in_flight"]
    assert known.find("gateway_in_fligth") is None
    assert known.metrics()["process_cpu_seconds_total"].exporters == ("gateway", "retail")


ROW = {"exporter": "a", "metric": "m_total", "type": "counter", "unit": "", "labels": "x=1|2 y", "help": "h"}


def table(path: Path, *rows: dict[str, str]) -> Path:
    with (path / "metrics.csv").open("w", newline="") as file:
        (out := csv.DictWriter(file, list(ROW))).writeheader()
        out.writerows(rows)
    return path / "metrics.csv"


def test_a_table_is_read(tmp_path: Path) -> None:
    [metric] = known._read(table(tmp_path, ROW, {**ROW, "exporter": "b"})).values()
    assert metric == known.Metric("m_total", ("a", "b"), "counter", "", {"x": ("1", "2"), "y": ()}, "h")


@pytest.mark.parametrize("changed", [{"type": "gauge"}, {"unit": "bytes"}, {"labels": ""}, {}, {"exporter": "b", "type": "number"},
                                     {"metric": "n", "help": ""}, {"metric": "n", "exporter": ""}])
def test_a_table_that_contradicts_itself_is_refused_with_its_line(changed: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"metrics\.csv, line 3"):
        known._read(table(tmp_path, ROW, {**ROW, **changed}))
