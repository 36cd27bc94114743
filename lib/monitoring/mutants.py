"""Rules and dashboards with one thing wrong each, and whether anybody would notice: promtool's proofs, its check, or our lint.

That a file differs from the one that is generated does not count: whoever changes the generator by mistake changes both. A mutant that
says the same as the original is none; those are named, each with its reason, and counted apart.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lib.monitoring import config, dashboards, lint, proofs
from lib.monitoring.lint_query import Finding
from lib.monitoring.rules import Group, Rule
from lib.monitoring.timing import PRODUCTION, duration, seconds

OUTSIDE = re.compile(r'"(?:[^"\\]|\\.)*"|\{[^}]*\}|\[[^\]]*\]|\b(?:by|on|ignoring|group_left|group_right|without)\s*\([^)]*\)')
WORD = re.compile(r"(?<![\w:])[a-zA-Z_:][\w:]*(?![\w:])(?!\s*\()")
KEYWORDS = {"and", "or", "unless", "by", "on", "bool", "offset", "ignoring", "without", "group_left", "group_right", "inf", "nan"}
MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')
FLIPPED = {">": "<", "<": ">", ">=": "<=", "<=": ">=", "==": "!=", "!=": "==", "=": "!=", "=~": "!~", "!~": "=~"}
COMPARED = re.compile(r"(>=|<=|==|!=|(?<![=!<>])[<>](?!=))")
BOUND = re.compile(r"(?:>=|<=|[<>])\s*((?:\d+(?:\.\d+)?(?:e[+-]?\d+)?))")
WINDOW = re.compile(r"\[(\d+[smhdw])\]")
SWAPPED = {"and": ("or", "unless"), "or": ("and", "unless"), "unless": ("and", "or")}
UNITS = {"s": "ms", "ms": "s", "percentunit": "percent", "percent": "percentunit", "bytes": "s", "reqps": "s", "currencyUSD": "percentunit"}

# Kind, place, and why nothing changes that can be told.
EQUIVALENT = (
    (r"sum -> avg|rate -> increase|rate removed|window", r"of what is times 0", "0 times a sum, a mean, a rate or an increase is 0"),
    (r"matcher dropped", r"BudgetBurn-\w+: (service|slo)=", "two other selectors still name the objective, and `and` keeps what all have"),
    (r"sum -> avg", r"(latency|ttft|tpot|frame_age)_seconds:p\d+: ", "a quantile of mean buckets is that of their sum"),
    (r"sum -> avg", r"CameraDown|host:memory_available", "whether there is any; an instance has one memory"),
    (r"sum -> avg|rate -> increase", r"EngineStalled: ", "whether there is any: a mean, a sum, a rate and an increase are above 0 alike"),
)
TIMES_0 = re.compile(r"\bor (?:1 \+ )?0 \* ")


@dataclass(frozen=True, slots=True)
class Mutant:
    """`kind` of change, `where` and `what` it is there, and the groups or the dashboard with it."""

    kind: str
    where: str
    what: str
    made: Any
    touched: tuple[int, int] | None = None  # group and rule; None: a dashboard

    @property
    def equivalent(self) -> str | None:
        return next((why for kind, place, why in EQUIVALENT
                     if re.fullmatch(kind, self.kind) and re.search(place, f"{self.where}: {self.what}")), None)


def of_expr(expr: str) -> Iterator[tuple[str, str, str]]:
    """(kind, what, changed): each place of an expression, one at a time."""
    zero = hit.end() if (hit := TIMES_0.search(expr)) else len(expr)
    for kind, what, changed in _changed(expr):
        first = next((n for n, (was, now) in enumerate(zip(expr, changed, strict=False)) if was != now), len(changed))
        yield kind, f"{what} of what is times 0" if first >= zero else what, changed


def _changed(expr: str) -> Iterator[tuple[str, str, str]]:

    def put(hit: re.Match[str], new: str, group: int = 0) -> str:
        return expr[:hit.start(group)] + new + expr[hit.end(group):]

    masked = OUTSIDE.sub(lambda hit: "\0" * len(hit[0]), expr)
    for hit in WORD.finditer(masked):
        if hit[0] in SWAPPED:
            yield from (("and/or/unless", f"{hit[0]} -> {new}", put(hit, new)) for new in SWAPPED[hit[0]])
        elif hit[0] not in KEYWORDS:
            yield "renamed", hit[0], put(hit, hit[0][:-1])
    for hit in MATCHER.finditer(expr):
        yield "matcher changed", hit[0], put(hit, f'{hit[1]}{FLIPPED[hit[2]]}"{hit[3]}"')
        yield "matcher value", hit[0], put(hit, f'{hit[1]}{hit[2]}"{hit[3]}x"')
        start, end = hit.span()
        comma = (start, end + 1) if expr[end] == "," else (start - 1, end) if expr[start - 1] == "," else (start, end)
        yield "matcher dropped", hit[0], (expr[:comma[0]] + expr[comma[1]:]).replace("{}", "")
    for hit in COMPARED.finditer(masked):
        yield "comparison flipped", f"{hit[0]} at {hit.start()}", put(hit, FLIPPED[hit[0]])
    for hit in BOUND.finditer(masked):
        if float(hit[1]):
            yield from (("threshold", f"{hit[1]} {way}", put(hit, f"{float(hit[1]) * by:g}", 1))
                        for way, by in (("×1000", 1000), ("÷1000", 1e-3)))
    for hit in re.finditer(r", le\b|\ble, |(?<=by \()le(?=\))", expr):
        yield "le dropped", f"at {hit.start()}", put(hit, "")
    for hit in re.finditer(r"\brate\(([^()]*?)\[[^\]]*\]\)", expr):
        yield "rate removed", hit[0], put(hit, hit[1])
    for old, new in (("rate", "increase"), ("increase", "rate"), ("sum", "avg")):
        for hit in re.finditer(rf"\b{old}\b(?=\s*[(\0])", masked):
            yield f"{old} -> {new}", f"at {hit.start()}", put(hit, new)
    for hit in WINDOW.finditer(expr):
        other = "5m" if seconds(hit[1]) > 300 else "30m"
        yield "window", f"{hit[1]} -> {other}", put(hit, other, 1)
    for hit in re.finditer(r"(?<=_quantile\()0\.\d+|(?<=quantile_over_time\()0\.\d+", expr):
        yield "quantile", f"{hit[0]}", put(hit, "0.99" if hit[0] == "0.5" else "0.5")


def of_rule(rule: Rule) -> Iterator[tuple[str, str, Rule]]:
    """(kind, what, changed): each place of a rule."""
    yield from ((kind, what, {**rule, "expr": expr}) for kind, what, expr in of_expr(rule["expr"]))
    if "for" in rule:
        yield "for removed", rule["for"], {key: value for key, value in rule.items() if key != "for"}
        yield "for ×10", rule["for"], {**rule, "for": duration(10 * seconds(rule["for"]))}
    if "severity" in rule.get("labels", {}):
        labels = {name: value for name, value in rule["labels"].items() if name != "severity"}
        yield "severity dropped", rule["labels"]["severity"], {**rule, "labels": labels}


def of_rules(groups: Sequence[Group]) -> Iterator[Mutant]:
    for g, group in enumerate(groups):
        for r, rule in enumerate(group["rules"]):
            for kind, what, changed in of_rule(rule):
                made = [*groups[:g], {**group, "rules": [*group["rules"][:r], changed, *group["rules"][r + 1:]]}, *groups[g + 1:]]
                yield Mutant(kind, _place(group, rule), what, made, (g, r))


def of_dashboard(board: Mapping[str, Any]) -> Iterator[Mutant]:
    def mutant(kind: str, p: int, what: str, at: Sequence[str | int], value: Any) -> Mutant:
        made = deepcopy(dict(board))
        inside = made["panels"][p]
        for key in at[:-1]:
            inside = inside[key]
        inside[at[-1]] = value
        return Mutant(f"dashboard: {kind}", f"{board['title']} / {board['panels'][p]['title']}", what, made)

    for p, panel in enumerate(board["panels"]):
        told = panel.get("fieldConfig", {}).get("defaults", {})
        if (unit := told.get("unit")) in UNITS and panel.get("targets"):
            yield mutant("unit", p, unit, ("fieldConfig", "defaults", "unit"), UNITS[unit])
        for s, step in enumerate(told.get("thresholds", {}).get("steps", [])):
            if step["value"]:
                yield mutant("threshold ×1000", p, f"{step['value']:g}",
                             ("fieldConfig", "defaults", "thresholds", "steps", s, "value"), 1000 * step["value"])
        for t, target in enumerate(panel.get("targets", [])):
            if target.get("legendFormat"):
                yield mutant("legend dropped", p, target["refId"], ("targets", t, "legendFormat"), "")
            yield from (mutant(kind, p, what, ("targets", t, "expr"), expr) for kind, what, expr in of_expr(target["expr"])
                        if kind == "renamed")


@dataclass(frozen=True, slots=True)
class Judge:
    """Who notices: the lint's findings of the originals, and the proofs that a rule takes part in."""

    groups: Sequence[Group]
    boards: Mapping[str, Any]
    proofs: Sequence[tuple[str, dict[str, Any], frozenset[tuple[int, int]]]]
    rules_found: Counter[Finding]
    boards_found: Mapping[str, Counter[Finding]]
    series: frozenset[str]

    @classmethod
    def of(cls, groups: Sequence[Group] | None = None, boards: Sequence[Mapping[str, Any]] | None = None) -> Judge:
        """Of what the code makes at production's timing."""
        groups = config.groups(PRODUCTION) if groups is None else groups
        told = {str(board["title"]): board for board in (dashboards.ALL if boards is None else boards)}
        places = {id(rule): (g, r) for g, group in enumerate(groups) for r, rule in enumerate(group["rules"])}
        every = [(name, tests, frozenset(places[id(rule)] for group in needed for rule in group["rules"]))
                 for name, (needed, tests) in proofs.everything(groups).items()]  # fmt: skip
        series = frozenset(rule["record"] for group in groups for rule in group["rules"] if "record" in rule)
        return cls(groups, told, every, Counter(lint.lint_rules(groups)),
                   {title: Counter(lint.lint_dashboard(board, recorded=series)) for title, board in told.items()}, series)  # fmt: skip

    def mutants(self) -> list[Mutant]:
        return [*of_rules(self.groups), *(mutant for board in self.boards.values() for mutant in of_dashboard(board))]

    def caught_by(self, mutant: Mutant) -> str | None:
        """Who notices first: the lint, which is quick, then promtool; None where nobody does. Raises promtool.Failed."""
        if mutant.touched is None:
            gained = Counter(lint.lint_dashboard(mutant.made, recorded=self.series)) - self.boards_found[mutant.made["title"]]
            return next((f"lint: {finding.rule}" for finding in gained), None)
        if gained := Counter(lint.lint_rules(mutant.made)) - self.rules_found:
            return f"lint: {next(iter(gained)).rule}"
        for name, tests, rules in sorted(self.proofs, key=lambda proof: len(str(proof[1]))):
            if mutant.touched in rules:
                kept = [{**group, "rules": [rule for r, rule in enumerate(group["rules"]) if (g, r) in rules]}
                        for g, group in enumerate(mutant.made)]  # fmt: skip
                if proofs.tried(tests, [group for group in kept if group["rules"]]):
                    return f"promtool: {name}"
        return None


def survey(seed: int, n: int | None = None, *, workers: int = 2) -> pd.DataFrame:
    """kind, where, what, caught, by, equivalent (why it is none): `n` mutants, kinds by turns; all of them where None."""
    judge = Judge.of()
    by_kind: dict[str, list[Mutant]] = {}
    for mutant in judge.mutants():
        by_kind.setdefault(mutant.kind, []).append(mutant)
    for each in by_kind.values():
        random.Random(seed).shuffle(each)
    turns = [each[k] for k in range(max(map(len, by_kind.values()))) for each in by_kind.values() if k < len(each)][:n]
    with ThreadPoolExecutor(workers) as pool:
        caught = list(pool.map(judge.caught_by, turns))
    return pd.DataFrame([(m.kind, m.where, m.what, by is not None, by, m.equivalent) for m, by in zip(turns, caught, strict=True)],
                        columns=["kind", "where", "what", "caught", "by", "equivalent"])


def _place(group: Group, rule: Rule) -> str:
    return f"{group['name']} / {rule.get('record') or '-'.join((rule['alert'], *rule['labels'].get('window', '').split()))}"
