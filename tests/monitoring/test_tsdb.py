"""What was exported is exactly what was there, and a Prometheus made of it answers as the first one did."""

from __future__ import annotations

from math import inf, isnan, nan
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.install import Missing
from lib.monitoring import tools, tsdb
from lib.monitoring.prometheus import Client, Unanswered, series

T0 = 1_795_900_000.0
needs_prometheus = pytest.mark.skipif(isinstance(tools.find("prometheus"), Missing), reason="Prometheus is not on this machine")
NAMES = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,8}", fullmatch=True).filter(lambda name: name != "__name__")


def samples(**told: list[tuple[float, float]]) -> pd.DataFrame:
    return pd.DataFrame([(name, T0 + t, value) for name, points in told.items() for t, value in points], columns=["series", "t_s", "value"])


@given(st.dictionaries(NAMES, st.text(st.characters(blacklist_categories=["Cs"])), max_size=4), st.booleans())
def test_the_text_of_a_series_reads_back(told: dict[str, str], named: bool) -> None:
    whole = {**told, **({"__name__": "slo:x_y:z"} if named else {})}
    assert tsdb.labels(series(whole)) == whole


@pytest.mark.parametrize("text", ["a{", "a{b=1}", 'a{b="1"', "1a", 'a{b="1",}', 'a{b="\\"}', "a b", 'a{b="1"}x'])
def test_what_is_no_series_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no series"):
        tsdb.labels(text)


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 2**42), st.floats()), max_size=30, unique_by=lambda row: row[:2]))
def test_packing_loses_no_bit(rows: list[tuple[str, int, float]]) -> None:
    told = pd.DataFrame(rows, columns=["series", "t_s", "value"]).astype({"series": "str", "t_s": "float", "value": "float"})
    told["t_s"] /= 1000
    back = tsdb.unpacked(tsdb.packed(told))
    told = told.sort_values(["series", "t_s"])
    assert list(back.series) == list(told.series)
    assert np.allclose(back.t_s, told.t_s, atol=4e-4, rtol=0)
    assert back.value.to_numpy().tobytes() == told.value.to_numpy().tobytes()


def test_packed_it_is_small(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    told = samples(**{f"c{n}": list(zip(np.arange(2000) / 2, rng.poisson(n / 20, 2000).cumsum(), strict=True)) for n in range(20)})
    tsdb.packed(told).to_parquet(file := tmp_path / "x.parquet", index=False, compression="zstd")
    assert file.stat().st_size < 1.5 * len(told), "bytes a sample"


def test_of_each_span_the_last_sample_is_kept() -> None:
    thin = tsdb.unpacked(tsdb.packed(samples(a=[(t, t) for t in range(20)], b=[(3, 1)]), every_s=10))
    assert list(zip(thin.series, thin.t_s - T0, strict=True)) == [("a", 9), ("a", 19), ("b", 3)]


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory) -> object:
    """A Prometheus rebuilt from series with all that is awkward, and the rule that was evaluated over them."""
    told = samples(**{
        "resets_total": [(15.0 * k, 10.0 * (k if k < 20 else k - 20)) for k in range(40)],
        "gap": [(15.0 * k, 1.0) for k in (*range(10), *range(30, 40))],
        "special": [(0, nan), (15, inf), (30, -inf), (45, -0.0), (60, 1e-310), (75, 0.1 + 0.2), (90.007, 2.0)],
        series({"__name__": "odd", "x": 'a "quote"\nand \\ back, {café}=✓', "y": ""}): [(0, 7.0), (15, 8.0)],
    })
    (rules := tmp_path_factory.mktemp("rules") / "r.yml").write_text(
        "groups: [{name: g, rules: [{record: 'x:rate', expr: 'rate(resets_total[1m])'}, {record: 'x:twice', expr: '2 * x:rate'}]}]")
    with tsdb.rebuilt(tsdb.packed(told), tmp_path_factory.mktemp("tsdb"), rules=[rules], lookback="1m") as client:
        yield client, told


@needs_prometheus
def test_rebuilt_every_sample_is_there_to_the_bit(again: tuple[Client, pd.DataFrame]) -> None:
    client, told = again
    for name in ("resets_total", "gap", "special", "odd"):
        back, was = client.raw(name, T0, T0 + 700, chunk_s=100), told[told.series.str.match(rf"{name}\b")]
        assert np.allclose(back.t_s, was.t_s, atol=1e-4, rtol=0)
        assert [repr(v) for v in back.value] == [repr(v) for v in was.value]
    (odd,) = client.raw("odd", T0, T0 + 700).labels.drop_duplicates()
    assert odd == {"__name__": "odd", "x": 'a "quote"\nand \\ back, {café}=✓'}, "an empty label is none"


@needs_prometheus
def test_rebuilt_the_rate_survives_a_counter_that_began_anew(again: tuple[Client, pd.DataFrame]) -> None:
    client, _ = again
    rates = client.range("rate(resets_total[1m])", T0 + 60, T0 + 570, 15)
    assert rates.value.to_numpy() == pytest.approx(10 / 15, rel=0.34)  # at the restart one scrape's increase is lost: it counted from 0
    quiet = rates[(rates.t_s < T0 + 290) | (rates.t_s > T0 + 370)]
    assert quiet.value.to_numpy() == pytest.approx(10 / 15)
    assert client.instant("increase(resets_total[590s])", T0 + 590).value.iloc[0] == pytest.approx(380, rel=0.02)


@needs_prometheus
def test_rebuilt_a_gap_stays_a_gap(again: tuple[Client, pd.DataFrame]) -> None:
    client, _ = again
    there = client.range("gap", T0, T0 + 590, 15).t_s - T0
    assert there[(there > 135 + 60) & (there < 450)].empty
    assert {0, 135, 450, 585} <= set(there)


@needs_prometheus
def test_rebuilt_special_floats_are_themselves(again: tuple[Client, pd.DataFrame]) -> None:
    client, _ = again
    at = {t: client.instant("special", T0 + t).value.iloc[0] for t in (0, 15, 30, 60)}
    assert isnan(at[0]) and at[15] == inf and at[30] == -inf and at[60] == 1e-310


@needs_prometheus
def test_rules_are_evaluated_over_the_past_also_those_on_rules(again: tuple[Client, pd.DataFrame]) -> None:
    client, _ = again
    once, twice = (client.range(name, T0 + 120, T0 + 270, 15) for name in ("x:rate", "x:twice"))
    assert len(once) == len(twice) == 11
    assert twice.value.to_numpy() == pytest.approx(2 * once.value.to_numpy())


@needs_prometheus
def test_what_is_exported_again_is_the_same(again: tuple[Client, pd.DataFrame]) -> None:
    client, told = again
    first = tsdb.packed(told[told.series.isin(["gap", "resets_total"])])
    once = tsdb.export(client, ["gap", "resets_total"], T0, T0 + 700)
    pd.testing.assert_frame_equal(once, first, check_categorical=False)


@needs_prometheus
def test_a_rebuilt_prometheus_refuses_with_a_sentence(again: tuple[Client, pd.DataFrame]) -> None:
    client, _ = again
    with pytest.raises(Unanswered, match=r"refuses 'sum\('.*parse error"):
        client.instant("sum(")
