"""Percentiles from buckets, and the bound on their error, for any samples."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.monitoring import edges, percentiles, steady


def test_e12_is_twelve_a_decade_and_where_requests_end_each_step_has_three() -> None:
    assert edges.e12(-1, 0) == (0.1, 0.12, 0.15, 0.18, 0.22, 0.27, 0.33, 0.39, 0.47, 0.56, 0.68, 0.82, 1.0)
    assert (edges.REQUEST_S[0], edges.FIRST_TOKEN_S[0], edges.REQUEST_S[-1], edges.TOKEN_S[-1]) == (1e-4, 1e-3, 68.0, 10.0)
    for known in (edges.REQUEST_S, edges.FIRST_TOKEN_S, edges.TOKEN_S):
        assert all(below < above for below, above in pairwise(known))
        assert set(edges.e12(-3, 1)) <= set(known)
        assert 0.05 < edges.worst([edge for edge in known if 1e-3 <= edge <= 1]) <= edges.WORST
        assert edges.worst([edge for edge in known if edge <= 10]) == pytest.approx(edges.WORST_BEYOND)
        assert len(known) < 150, "a series each, for every service"


def test_each_histogram_that_tells_percentiles_has_its_bound_named() -> None:
    told = percentiles.bounds().set_index("histogram")
    assert set(told.index) >= set(steady.HISTOGRAMS)
    assert (told.loc[list(steady.HISTOGRAMS), "within"] <= edges.WORST).all()
    assert (told.drop(index=list(steady.HISTOGRAMS))["within"] <= 1.5).all()  # stages say where to look, not how long it took
    for name, known in percentiles.EDGES.items():
        middle = percentiles.bound(0.0128, known)
        assert middle is not None and middle <= told.loc[name, "within"]


@pytest.mark.parametrize("bound_s", [0.001, 0.1, 1.0, 10.0])
def test_what_an_objective_promises_is_an_edge(bound_s: float) -> None:
    """So that the share within it is counted, not interpolated."""
    assert bound_s in edges.REQUEST_S and bound_s in edges.TOKEN_S


def test_edges_of_others_have_buckets_that_are_wrong_by_more_than_double() -> None:
    for name in ("vLLM", "OpenTelemetry", "prometheus_client"):
        assert percentiles.bound(0.2, percentiles.OF_TTFT[name]) == pytest.approx(1.5)
    assert percentiles.bound(0.2, edges.REQUEST_S) == pytest.approx(0.206 / 0.192 - 1)


within = st.floats(edges.TOKEN_S[0], edges.TOKEN_S[-1], exclude_min=True)


@given(st.lists(within, min_size=1, max_size=60), st.floats(0, 1), st.sampled_from([edges.TOKEN_S, percentiles.VLLM_TTFT_S]))
def test_the_error_is_never_beyond_its_bound(samples: list[float], q: float, known: Sequence[float]) -> None:
    true, told = percentiles.exact(samples, q), percentiles.from_buckets(samples, q, known)
    if (bound := percentiles.bound(true, known)) is not None:
        assert abs(told / true - 1) <= bound * (1 + 1e-9)
        assert known is not edges.TOKEN_S or bound <= (edges.WORST if 1e-3 < true <= 1 else edges.WORST_BEYOND) + 1e-9


@given(st.lists(within, min_size=1, max_size=60), st.floats(0, 1))
def test_the_exact_one_is_numpys_of_that_definition(samples: list[float], q: float) -> None:
    true = percentiles.exact(samples, q)
    assert (np.asarray(samples) <= true).mean() >= q - 1e-12
    assert (np.asarray(samples) < true).mean() <= q + 1e-12


def test_by_hand_as_prometheus_has_it() -> None:
    """Of four samples below 1 and four from 1 to 3 the quantile 0.75 is in the middle of the second bucket."""
    assert percentiles.from_buckets([0.5] * 4 + [2.0] * 4, 0.75, (1.0, 3.0)) == pytest.approx(2.0)
    assert percentiles.from_buckets([9.0], 0.5, (1.0, 3.0)) == 3.0  # beyond the last edge it answers that
    assert percentiles.bound(9.0, (1.0, 3.0)) is percentiles.bound(0.5, (1.0, 3.0)) is None


def test_ours_beside_others_on_a_distribution_like_real_ones() -> None:
    samples = np.random.default_rng(7).lognormal(np.log(0.16), 0.35, 5000)
    frame = percentiles.compare(samples)
    worst = frame.assign(error=frame.error.abs()).groupby("edges").error.max()
    assert worst["ours"] < 0.02 < 0.1 < worst["vLLM"]
    assert set(frame.columns) == {"edges", "buckets", "q", "exact_s", "bucket_s", "error", "bound"}
    assert (frame.error.abs() <= frame.bound).all()


@pytest.mark.parametrize("samples", [[], [float("nan")]])
def test_of_nothing_there_is_no_quantile(samples: list[float]) -> None:
    with pytest.raises(ValueError, match="no quantile"):
        percentiles.exact(samples, 0.5)
