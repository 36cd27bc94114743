"""Deployment facts: the text, the file, and that node_exporter and the fraud service write the same edges."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from lib import process
from lib.install import Missing
from lib.monitoring import facts, known, tokens, tools
from lib.monitoring.facts import Facts
from lib.pipelines.fraud import model
from lib.pipelines.fraud.instruments import PROBABILITIES, Instruments

CARD = tokens.Card({"input_uncached": 1e-7, "input_cached": 2.5e-8, "output": 4e-7})
WHOLE = Facts({"fraud": "abc", "retail": 'yolo"v8'}, facts.cdf([0.0, 1e-4, 0.5]), CARD, "m", 0.19, {"llama.cpp": 1e8}, 2e10)


def series(text: bytes) -> dict[tuple[str, ...], float]:
    return {(s.name, *s.labels.values()): s.value for f in text_string_to_metric_families(text.decode()) for s in f.samples}


def test_all_that_is_known_is_told() -> None:
    seen = series(facts.text(WHOLE))
    assert seen[("deployment_model_info", "retail", 'yolo"v8')] == seen[("deployment_model_info", "fraud", "abc")] == 1
    assert seen[("deployment_score_cdf", "0.0001")] == pytest.approx(2 / 3)
    assert seen[("deployment_score_cdf", "+Inf")] == seen[("deployment_score_cdf", "1")] == 1
    assert seen[("token_price_usd", "m", "input_cached")] == 2.5e-8
    assert seen[("machine_price_usd_per_hour",)] == 0.19
    assert seen[("deployment_weights_bytes", "llama.cpp")] == 1e8
    assert seen[("machine_bandwidth_bytes_per_second",)] == 2e10


def test_what_is_not_known_is_not_there() -> None:
    assert facts.text(Facts()).strip() == b""
    assert {key[0] for key in series(facts.text(Facts({"fraud": "a"})))} == {"deployment_model_info"}


def test_names_and_labels_are_those_of_the_table() -> None:
    for family in text_string_to_metric_families(facts.text(WHOLE).decode()):
        metric = known.metrics()[family.name]
        assert (metric.type, metric.help) == (family.type, family.documentation)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels) - {"le"}
            assert all(not (bound := metric.labels.get(name, ())) or value in bound for name, value in sample.labels.items())


@given(st.lists(st.floats(0, 1), min_size=1))
def test_a_cdf_rises_to_1(scores: list[float]) -> None:
    shares = list(facts.cdf(scores).values())
    assert shares == sorted(shares) and shares[-1] == shares[-2] == 1
    assert facts.cdf(scores)["0.5"] == pytest.approx(np.mean(np.asarray(scores) <= 0.5))


@pytest.mark.parametrize("scores", [[], [0.1, float("nan")]])
def test_no_cdf(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="no distribution"):
        facts.cdf(scores)


def test_edges_are_written_as_the_service_writes_them() -> None:
    """They are labels: a join on `le` compares their text."""
    service = re.findall(r'fraud_probability_bucket\{le="([^"]+)"\}', Instruments("v").text(0, 0).decode())
    assert list(facts.cdf([0.5])) == service


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    written = facts.write(tmp_path / "new", WHOLE)
    assert written.read_bytes() == facts.text(WHOLE)
    assert [file.name for file in written.parent.iterdir()] == [facts.FILE]
    assert stat.S_IMODE(written.stat().st_mode) == 0o644
    assert facts.write(tmp_path / "new", Facts()).read_bytes().strip() == b""


def test_the_machine_costs_something() -> None:
    assert 0.01 < facts.machine_usd_per_hour() < 1000


@pytest.mark.skipif(isinstance(model.ready(), Missing), reason="the fraud model is not built on this machine")
def test_the_models_own_scores() -> None:
    shares = facts.judged(model.load())
    assert list(shares) == [f"{edge:g}" for edge in PROBABILITIES] + ["+Inf"]
    assert shares["0.0001"] < 0.9 < shares["0.5"] < 1  # frauds are few, and most of the rest is surely none


@pytest.mark.skipif(isinstance(tools.find("node_exporter"), Missing), reason="node_exporter is not on this machine")
def test_node_exporter_reads_them(tmp_path: Path) -> None:
    facts.write(tmp_path / "facts", WHOLE)

    def argv(port: int) -> list[str]:
        return [str(tools.find("node_exporter")), f"--web.listen-address=127.0.0.1:{port}", "--collector.disable-defaults",
                "--collector.textfile", f"--collector.textfile.directory={tmp_path / 'facts'}"]

    with process.running(argv, name="node_exporter", logs=tmp_path, health="/") as node:
        seen = series(httpx.get(f"{node.url}/metrics", trust_env=False).content)
    assert seen[("node_textfile_scrape_error",)] == 0
    assert series(facts.text(WHOLE)).items() <= seen.items()
