"""PromQL as a tree: who stands above whom, what a constant comes to, which unit an expression has. By promql-parser, never by patterns.

Refuses nothing that parses; of what it cannot tell (the unit of a product, say) it says None.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import promql_parser as ast

from lib.monitoring import known

# What Grafana puts in, as ranges that nobody writes, so that they are found again in the tree.
WINDOWS = {"__rate_interval": timedelta(seconds=100_003), "__interval": timedelta(seconds=100_019), "__range": timedelta(seconds=100_043)}
RATES = {"rate", "irate", "increase"}
QUANTILE = re.compile(r"p\d{2,3}|q\d{2,3}|quantile\d*")
ARITHMETIC = {"+", "-", "*", "/", "%", "^"}
COMPARISONS = {"==", "!=", ">", "<", ">=", "<="}
SETS = {"and", "or", "unless"}


@dataclass(frozen=True, slots=True)
class Node:
    """An expression and those around it, the innermost first."""

    expr: Any
    above: tuple[Any, ...]

    @property
    def kind(self) -> str:
        return type(self.expr).__name__

    def under(self, *kinds: type) -> Any:
        """The innermost expression of `kinds` above this one, if any."""
        return next((one for one in self.above if isinstance(one, kinds)), None)


def parse(expr: str) -> Any:
    """The tree of `expr`, Grafana's variables put in. Raises ValueError with the parser's word."""
    for name, window in WINDOWS.items():
        expr = re.sub(rf"\$(?:{name}\b|{{{name}}})", f"{window.total_seconds():.0f}s", expr)
    return ast.parse(expr)


def walk(expr: Any, above: tuple[Any, ...] = ()) -> Iterator[Node]:
    """Every expression of the tree, from the outside in."""
    yield Node(expr, above)
    for child in children(expr):
        yield from walk(child, (expr, *above))


def children(expr: Any) -> list[Any]:
    match type(expr).__name__:
        case "BinaryExpr":
            return [expr.lhs, expr.rhs]
        case "AggregateExpr":
            return [expr.expr, *([expr.param] if isinstance(expr.param, ast.Expr) else [])]
        case "Call":
            return list(expr.args)
        case "ParenExpr" | "UnaryExpr" | "SubqueryExpr":
            return [expr.expr]
        case "MatrixSelector":
            return [expr.vector_selector]
    return []


def bare(expr: Any) -> Any:
    """Without the parentheses around it."""
    return bare(expr.expr) if isinstance(expr, ast.ParenExpr) else expr


def name(selector: Any) -> str:
    """The metric that a selector asks for; empty where it asks for any."""
    return selector.name or next((one.value for one in selector.matchers.matchers if one.name == "__name__"), "")


def selectors(expr: Any) -> list[Node]:
    return [node for node in walk(expr) if node.kind == "VectorSelector"]


def operator(expr: Any) -> str:
    return str(expr.op) if isinstance(expr, ast.BinaryExpr | ast.AggregateExpr) else ""


def function(expr: Any) -> str:
    return str(expr.func.name) if isinstance(expr, ast.Call) else ""


def grouped(aggregate: Any) -> tuple[bool, tuple[str, ...]]:
    """Whether it keeps the labels that follow (by) or drops them (without). Without either it keeps none."""
    if aggregate.modifier is None:
        return True, ()
    return aggregate.modifier.type == ast.AggModifierType.By, tuple(aggregate.modifier.labels)


def constant(expr: Any) -> float | None:
    """What an expression of numbers alone comes to."""
    expr = bare(expr)
    if isinstance(expr, ast.NumberLiteral):
        return float(expr.val)
    if isinstance(expr, ast.UnaryExpr):
        return None if (inner := constant(expr.expr)) is None else -inner
    if isinstance(expr, ast.BinaryExpr) and operator(expr) in ARITHMETIC:
        lhs, rhs = constant(expr.lhs), constant(expr.rhs)
        if lhs is not None and rhs is not None:
            match operator(expr):
                case "+":
                    return lhs + rhs
                case "-":
                    return lhs - rhs
                case "*":
                    return lhs * rhs
                case "/":
                    return lhs / rhs if rhs else None
    return None


def unit(expr: Any) -> str | None:
    """In what `expr` is counted: "seconds", "ratio", "tokens/s", …; None where that is not known."""
    expr = bare(expr)
    match type(expr).__name__:
        case "VectorSelector":
            return named_unit(name(expr))
        case "AggregateExpr":
            return unit(expr.expr) if operator(expr) in {"sum", "avg", "min", "max", "topk", "bottomk", "quantile"} else None
        case "Call":
            return _call_unit(expr)
        case "BinaryExpr":
            return _binary_unit(expr)
    return None


def named_unit(metric: str) -> str | None:
    """The unit of a series by its name: as the table of metrics has it, or by what a recorded name says."""
    if family := known.find(metric):
        if metric.endswith("_count") and family.type in ("histogram", "summary"):
            return "events"
        return family.unit or None
    parts = metric.split(":")
    if len(parts) < 2:
        return None
    if parts[-1].startswith("ratio"):
        return "usd" if "usd" in parts[1] else None if "per_request" in parts[1] else "ratio"
    return next((word for word in ("seconds", "bytes", "watts", "usd") if word in parts[1].split("_")), None)


def _call_unit(expr: Any) -> str | None:
    match function(expr):
        case "rate" | "irate" if inner := _matrix_unit(expr.args[0]):
            return "ratio" if inner == "seconds" else f"{inner}/s"
        case "increase":
            return _matrix_unit(expr.args[0])
        case "histogram_quantile":
            bucket = [name(node.expr) for node in selectors(expr.args[1])]
            return named_unit(bucket[0]) if bucket else None
        case "abs" | "clamp_min" | "clamp_max" | "ceil" | "floor" | "label_replace" | "sort" | "sort_desc" | "round":
            return unit(expr.args[0])
    return None


def _matrix_unit(expr: Any) -> str | None:
    return named_unit(name(expr.vector_selector)) if isinstance(expr, ast.MatrixSelector) else None


def _binary_unit(expr: Any) -> str | None:
    word, lhs, rhs = operator(expr), unit(expr.lhs), unit(expr.rhs)
    if word in SETS | COMPARISONS:
        return lhs
    if word in "+-":
        return lhs if lhs == rhs else None
    if word == "/" and lhs and rhs:
        if _mean(expr):
            return _mean(expr)
        return "ratio" if lhs == rhs else None
    return None


def _mean(expr: Any) -> str | None:
    """The unit of a `_sum` divided by its `_count`: that of what was observed."""
    above, below = ({name(node.expr) for node in selectors(side)} for side in (expr.lhs, expr.rhs))
    if len(above) == len(below) == 1 and (top := above.pop()).endswith("_sum") and below.pop() == f"{top.removesuffix('_sum')}_count":
        return named_unit(top)
    return None
