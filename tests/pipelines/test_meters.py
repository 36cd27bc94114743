"""What is counted arrives at a scraper: read back by prometheus_client's parser, quantiles by Prometheus' own rule."""

from __future__ import annotations

from bisect import bisect_left
from math import inf, isnan, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from lib.pipelines.meters import Buckets, Counter, Gauge, Histogram, Meter, text

BOUNDS = (0.001, 0.01, 0.1, 1.0)
SECONDS = st.floats(0, 10)


def scraped(*meters: Meter) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(text(meters).decode())
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for family in families for sample in family.samples}


@pytest.mark.parametrize("value", [0, 1, 2.5, 1e-9, 2**53 - 1, 1e300, -3.25, inf, -inf])
def test_a_number_arrives_as_it_was(value: float) -> None:
    gauge = Gauge("depth", "how deep")
    gauge.child().set(value)
    assert scraped(gauge) == {("depth", ()): value}


def test_what_is_not_known_arrives_as_nan() -> None:
    gauge = Gauge("drift", "of the score")
    gauge.child().set(nan)
    assert isnan(scraped(gauge)["drift", ()])


def test_counts_are_whole_numbers_in_the_text() -> None:
    counter = Counter("seen_total", "seen")
    for _ in range(3):
        counter.child().add()
    assert text([counter]) == b"# HELP seen_total seen\n# TYPE seen_total counter\nseen_total 3\n"


@given(label=st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]) | st.sampled_from('\n"\\{}=,#')))
def test_any_text_is_a_label(label: str) -> None:
    counter = Counter("seen_total", 'a "help"\nof \\ two lines', ("who", "how"), [(label, "x"), (label + "2", "x")])
    counter.child(label, "x").add(2)
    told = scraped(counter)
    assert told["seen_total", (("how", "x"), ("who", label))] == 2
    assert told["seen_total", (("how", "x"), ("who", label + "2"))] == 0
    (family,) = text_string_to_metric_families(text([counter]).decode())
    assert (family.type, family.documentation) == ("counter", 'a "help"\nof \\ two lines')


def test_labels_that_were_not_announced_are_refused() -> None:
    with pytest.raises(KeyError):
        Counter("seen_total", "seen", ("who",), [("a",)]).child("b")


@given(st.lists(st.tuples(SECONDS | st.sampled_from(BOUNDS), st.integers(1, 5)), max_size=40))
def test_a_histogram_is_cumulative_and_its_bounds_belong_below(observed: list[tuple[float, int]]) -> None:
    histogram = Histogram("took_seconds", "time", BOUNDS, ("stage",), [("a",), ("b",)])
    for value, n in observed:
        histogram.child("a").observe(value, n)
    told = scraped(histogram)
    for bound, name in zip((*BOUNDS, inf), ("0.001", "0.01", "0.1", "1", "+Inf"), strict=True):
        assert told["took_seconds_bucket", (("le", name), ("stage", "a"))] == sum(n for value, n in observed if value <= bound)
        assert told["took_seconds_bucket", (("le", name), ("stage", "b"))] == 0
    assert told["took_seconds_count", (("stage", "a"),)] == sum(n for _, n in observed)
    assert told["took_seconds_sum", (("stage", "a"),)] == pytest.approx(sum(value * n for value, n in observed))


@pytest.mark.parametrize("bounds", [(), (1.0, 1.0), (2.0, 1.0), (1.0, inf), (nan,)])
def test_bounds_rise_and_end(bounds: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"took: bounds must rise"):
        Histogram("took", "time", bounds)


def test_a_quantile_is_prometheus() -> None:
    buckets = Buckets((1.0, 2.0, 4.0))
    assert buckets.quantile(0.5) is None
    for value in (0.5, 1.5, 1.7, 3.0):
        buckets.observe(value)
    assert [buckets.quantile(q) for q in (0, 0.25, 0.5, 0.75, 0.875, 1)] == [0, 1, 1.5, 2, 3, 4]
    buckets.observe(100, n=12)
    assert buckets.quantile(0.99) == 4  # beyond the last bound only the bound is known
    for q in (-0.1, 1.1, nan):
        with pytest.raises(ValueError, match="between 0 and 1"):
            buckets.quantile(q)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.floats(0.01, 1))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values: list[float], q: float) -> None:
    buckets = Buckets(BOUNDS)
    for value in values:
        buckets.observe(value)
    told = buckets.quantile(q)
    rank = next(n for n in range(1, len(values) + 1) if n >= q * len(values))
    true = bisect_left(BOUNDS, sorted(values)[rank - 1])
    assert told is not None
    assert (0, *BOUNDS)[true] <= told <= BOUNDS[true] * (1 + 1e-9)
