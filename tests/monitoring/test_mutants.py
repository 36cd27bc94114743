"""Mutants are one place apart from what they were, and somebody notices almost all of them."""

from __future__ import annotations

from collections import Counter

import promql_parser
import pytest

from lib.install import Missing
from lib.monitoring import mutants, tools

needs_promtool = pytest.mark.skipif(isinstance(tools.find("promtool"), Missing), reason="promtool is not on this machine")


@pytest.mark.parametrize(("expr", "kind", "changed"), [
    ("rate(a_total[5m]) > 2", "renamed", {"rate(a_tota[5m]) > 2"}),
    ("rate(a_total[5m]) > 2", "comparison flipped", {"rate(a_total[5m]) < 2"}),
    ("rate(a_total[5m]) > 2", "threshold", {"rate(a_total[5m]) > 2000", "rate(a_total[5m]) > 0.002"}),
    ("rate(a_total[5m]) > 2", "rate removed", {"a_total > 2"}),
    ("rate(a_total[5m]) > 2", "rate -> increase", {"increase(a_total[5m]) > 2"}),
    ("rate(a_total[5m]) > 2", "window", {"rate(a_total[30m]) > 2"}),
    ('a{b="c",d!="e"}', "matcher dropped", {'a{d!="e"}', 'a{b="c"}'}),
    ('a{b="c"}', "matcher dropped", {"a"}),
    ('a{b="c"}', "matcher changed", {'a{b!="c"}'}),
    ("histogram_quantile(0.95, sum by (x, le) (y))", "le dropped", {"histogram_quantile(0.95, sum by (x) (y))"}),
    ("histogram_quantile(0.95, sum by (x, le) (y))", "quantile", {"histogram_quantile(0.5, sum by (x, le) (y))"}),
    ("sum by (x) (y)", "sum -> avg", {"avg by (x) (y)"}),
    ("a and on (x) b", "and/or/unless", {"a or on (x) b", "a unless on (x) b"}),
])  # fmt: skip
def test_each_place_is_changed_and_no_other(expr: str, kind: str, changed: set[str]) -> None:
    assert {new for found, _, new in mutants.of_expr(expr) if found == kind} == changed


def test_rules_lose_what_a_rule_has() -> None:
    rule = {"alert": "A", "expr": "up", "for": "2m", "labels": {"severity": "page", "x": "y"}}
    found = {kind: new for kind, _, new in mutants.of_rule(rule)}
    assert "for" not in found["for removed"] and found["for ×10"]["for"] == "20m" and found["severity dropped"]["labels"] == {"x": "y"}


def test_most_mutants_parse_so_that_it_is_not_the_parser_who_finds_them() -> None:
    broken, told = Counter[str](), Counter[str]()
    for group in mutants.config.groups(mutants.PRODUCTION):
        for rule in group["rules"]:
            for kind, _, expr in mutants.of_expr(rule["expr"]):
                assert expr != rule["expr"]
                told[kind] += 1
                try:
                    promql_parser.parse(expr)
                except ValueError:
                    broken[kind] += 1
    assert sum(broken.values()) < 0.05 * sum(told.values()), broken


def test_what_is_called_equivalent_is_a_small_part() -> None:
    every = mutants.Judge.of().mutants()
    named = [mutant for mutant in every if mutant.equivalent]
    assert len(every) > 2000 and 0 < len(named) < 0.15 * len(every)


@needs_promtool
def test_somebody_notices() -> None:
    """Forty of them; all are surveyed for the notebook."""
    found = mutants.survey(seed=3, n=40)
    real = found[found.equivalent.isna()]
    assert len(real) >= 35 and real.caught.mean() >= 0.9, real[~real.caught]
