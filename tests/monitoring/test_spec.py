"""An objective that is loaded is one that the rules can keep; everything else is refused by file, objective and key."""

from __future__ import annotations

import contextlib
from decimal import Decimal
from pathlib import Path
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.monitoring import spec
from lib.monitoring.config import HOME
from lib.monitoring.spec import BadSpec

GOOD = """
version: prometheus/v1
service: llm
labels: {team: assistants}
slos:
  - name: availability
    objective: 99.5
    description: Completions that were answered.
    sli:
      events:
        error_query: sum(rate(gateway_requests_total{outcome!~"ok|client"}[{{.window}}]))
        total_query: sum(rate(gateway_requests_total{outcome!="client"}[{{.window}}]))
    alerting: {name: LlmBurns, labels: {tier: gold}}
"""


def refused(text: str) -> str:
    with pytest.raises(BadSpec) as told:
        spec.read(text.encode(), "llm.yaml")
    return str(told.value)


def test_what_is_promised_is_read() -> None:
    (slo,) = spec.read(GOOD.encode(), "llm.yaml")
    assert (slo.service, slo.name, slo.objective, slo.budget, slo.alert) == (
        "llm", "availability", Decimal("99.5"), Decimal("0.005"), "LlmBurns")  # fmt: skip
    assert slo.labels == {"team": "assistants", "tier": "gold"}
    assert slo.errors.count(spec.WINDOW) == slo.total.count(spec.WINDOW) == 1


def test_ours_hold_what_was_agreed() -> None:
    told = {f"{slo.service} {slo.name}": (str(slo.objective), slo.alert) for slo in spec.load(HOME / "slo")}
    assert told == {
        "fraud availability": ("99", "FraudAvailabilityBudgetBurn"), "fraud latency": ("99", "FraudLatencyBudgetBurn"),
        "llm availability": ("99", "LlmAvailabilityBudgetBurn"), "llm ttft": ("99", "LlmTtftBudgetBurn"),
        "llm tpot": ("99", "LlmTpotBudgetBurn"), "retail freshness": ("97.5", "RetailFreshnessBudgetBurn"),
    }  # fmt: skip


@pytest.mark.parametrize(("was", "now", "says"), [
    ("objective: 99.5", "objectiv: 99.5", ("slos[0]", "'objectiv'", "did you mean objective?")),
    ("    objective: 99.5\n", "", ("slos[0]", "objective is missing")),
    ("objective: 99.5", "objective: 100", ("(availability): objective", "between 0 and 100")),
    ("objective: 99.5", "objective: -1", ("(availability): objective", "between 0 and 100")),
    ("objective: 99.5", "objective: nan", ("(availability): objective", "between 0 and 100")),
    ("objective: 99.5", "objective: most", ("(availability): objective", "no number")),
    ("objective: 99.5", "objective: 93", ("(availability): objective", "below 93.1", "could never fire")),
    ("[{{.window}}]))\n        total", "[5m]))\n        total", ("(availability): sli.events.error_query", "without {{.window}}")),
    ("sum(rate(gateway_requests_total{outcome!=", "sum(rate((gateway_requests_total{outcome!=", ("sli.events.total_query", "not PromQL")),
    ("gateway_requests_total{outcome!=", "gateway_request_total{outcome!=", ("total_query", "did you mean gateway_requests_total?")),
    ("gateway_requests_total{outcome!=", "{outcome=", ("sli.events.total_query", "without a metric's name")),
    ("gateway_requests_total{outcome!=", "{outcome!=", ("sli.events.total_query", "not PromQL")),
    ("labels: {tier: gold}", "labels: {severity: page}", ("alerting.labels.severity", "the rules set")),
    ("labels: {tier: gold}", "page: true", ("(availability): alerting", "'page'")),
    ("name: LlmBurns", "name: llm burns", ("alerting.name", "no name here")),
    ("name: availability", "name: Availability!", ("slos[0]: name", "no name here")),
    ("version: prometheus/v1", "version: 2", ("version", "prometheus/v1")),
    ("service: llm", "service: llm\nservice: fraud", ("not YAML", "'service' is there twice")),
    ("slos:\n", "slos: {}\nslis:\n", ("'slis'", "did you mean slos?")),
])  # fmt: skip
def test_a_mistake_is_named_by_where_it_is(was: str, now: str, says: tuple[str, ...]) -> None:
    assert was in GOOD
    told = refused(GOOD.replace(was, now, 1))
    assert told.startswith("llm.yaml") and all(part in told for part in says), told


@pytest.mark.parametrize("text", ["", "[]", "slos", "slos: []", "- 1", "version: prometheus/v1\nservice: llm\nslos: []", "? [a]\n: b",
                                  "a: &a [*a]", "!!python/object/apply:os.system ['true']", "[" * 900, "\ufeff\x00"])  # fmt: skip
def test_what_is_no_specification_is_refused(text: str) -> None:
    assert refused(text).startswith("llm.yaml")


def test_a_file_beyond_reason_is_not_even_read() -> None:
    assert "bytes are more than" in refused(GOOD + "#" * spec.MOST_BYTES)


@given(st.binary(max_size=400) | st.text(max_size=400).map(str.encode))
def test_whatever_comes_it_loads_or_says_which_file(told: bytes) -> None:
    try:
        assert spec.read(told, "some.yaml")
    except BadSpec as error:
        assert str(error).startswith("some.yaml")


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 60), st.text(max_size=12))
def test_a_good_file_with_a_hole_in_it_loads_or_says_which_file(at: int, long: int, instead: str) -> None:
    try:
        assert spec.read((GOOD[:at] + instead + GOOD[at + long:]).encode(), "some.yaml")
    except BadSpec as error:
        assert str(error).startswith("some.yaml")


def test_a_name_is_used_once_in_all_files(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "b.yaml").write_text(GOOD.replace("name: availability", "name: another"))
    with pytest.raises(BadSpec, match=r"b\.yaml: LlmBurns is there already, in a\.yaml"):
        spec.load(tmp_path)


def test_a_folder_without_objectives_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSpec, match=r"there is no \*\.yaml"):
        spec.load(tmp_path)


def test_series_are_found_wherever_they_stand_in_an_expression() -> None:
    assert spec.series("sum by (le) (rate(a[5m])) / on () b > 1 or max_over_time((c - d)[1h:5m]) unless absent(e offset 1d)") == {*"abcde"}


@pytest.mark.parametrize("query", ["(" * 499 + "a" + ")" * 499, "-" * 999 + "a", "1+" * 499 + "a", "abs(" * 199 + "a" + ")" * 199,
                                   "a" * 9999])  # fmt: skip
def test_a_query_that_is_deep_or_long_costs_no_crash_and_no_minute(query: str) -> None:
    began = process_time()
    with contextlib.suppress(ValueError, RecursionError):
        spec.series(query)
    assert process_time() - began < 5
