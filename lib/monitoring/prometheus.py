"""Questions to a Prometheus over its HTTP API, answered as frames: one sentence where it cannot, and never half an answer.

NaN and ±Inf come through as they are; a series that went stale simply has no samples from then on (Prometheus keeps its markers to
itself). Times are unix seconds. Refuses native histograms, labels that would hide a column, and a server whose clock is not ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from math import ceil, nan
from time import time
from typing import Any

import httpx
import pandas as pd

from lib.monitoring.timing import duration

MOST_POINTS = 11_000  # a series and range query: Prometheus' own limit, as a constant of its
Labels = Mapping[str, str]


class Unanswered(RuntimeError):
    """Prometheus is not there, refused, or took too long; the message says which, of what, and what to do."""


@dataclass(frozen=True, slots=True)
class Client:
    """Where a Prometheus listens. Every method raises Unanswered."""

    url: str
    timeout_s: float = 30.0

    def instant(self, expr: str, at_s: float | None = None) -> pd.DataFrame:
        """What `expr` is at `at_s` (now): a column a label, and `value`. No series: no rows, but `value` is still there."""
        found = self._query("query", expr, {} if at_s is None else {"time": _ms(at_s)})
        if found["resultType"] == "scalar":
            return pd.DataFrame({"value": [float(found["result"][1])]})
        rows = [{**_named(one, expr), "value": float(one["value"][1])} for one in _series(found, "vector", expr)]
        return pd.DataFrame(rows, columns=[*dict.fromkeys(key for row in rows for key in row if key != "value"), "value"])

    def range(self, expr: str, start_s: float, end_s: float, step_s: float) -> pd.DataFrame:
        """`expr` from `start_s` to `end_s`, both included, as `_frame`. Steps where it has no value have no row."""
        if not (step_s > 0 and end_s >= start_s):
            raise Unanswered(f"no range: from {start_s} to {end_s} in steps of {step_s} s")
        if (points := (end_s - start_s) / step_s) > MOST_POINTS:
            least = ceil((end_s - start_s) / MOST_POINTS)
            raise Unanswered(f"too many points: {points:.0f} a series of {expr!r}, Prometheus gives {MOST_POINTS}; "
                             f"ask in steps of {least} s or more, or in parts")
        found = self._query("query_range", expr, {"start": _ms(start_s), "end": _ms(end_s), "step": f"{step_s:.3f}"})
        return _frame(_series(found, "matrix", expr))

    def raw(self, matcher: str, start_s: float, end_s: float, *, chunk_s: float = 600) -> pd.DataFrame:
        """The samples behind `matcher` (`{job="llm"}`) as they were scraped, both ends included, as `_frame`. Nothing is interpolated.

        Asked in parts of `chunk_s`, so that one answer stays small.
        """
        return pd.concat([_frame([]), *self._parts(matcher, start_s, end_s, chunk_s)], ignore_index=True)

    def _parts(self, matcher: str, start_s: float, end_s: float, chunk_s: float) -> Iterator[pd.DataFrame]:
        start, end, chunk = round(start_s * 1000), round(end_s * 1000), round(chunk_s * 1000)
        while start <= end:
            last = min(start + chunk - 1, end)
            # A range reaches one millisecond further back than the part: version 3 leaves its left end out, version 2 does not.
            found = self._query("query", f"{matcher}[{duration((last - start + 1) / 1000)}]", {"time": _ms(last / 1000)})
            part = _frame(_series(found, "matrix", matcher))
            if len(part := part[part.t_s >= start / 1000]):
                yield part
            start = last + 1

    def alerts(self) -> pd.DataFrame:
        """What is pending or firing now: alertname, state, labels, active_s (unix seconds since when), value."""
        rows = [(one["labels"]["alertname"], one["state"], one["labels"], _unix(one["activeAt"]), float(one["value"]))
                for one in self._get("alerts")["alerts"]]
        return pd.DataFrame(rows, columns=["alertname", "state", "labels", "active_s", "value"])

    def rules(self) -> pd.DataFrame:
        """Every rule: group, name, kind (recording, alerting), expr, health, error, and its last evaluation_s, evaluated_s (NaN: never)."""
        rows = [(group["name"], rule["name"], rule["type"], rule["query"], rule["health"], rule.get("lastError", ""),
                 rule["evaluationTime"], _unix(rule["lastEvaluation"]))
                for group in self._get("rules")["groups"] for rule in group["rules"]]
        return pd.DataFrame(rows, columns=["group", "name", "kind", "expr", "health", "error", "evaluation_s", "evaluated_s"])

    def targets(self) -> pd.DataFrame:
        """Every active target: job, instance, health (up, down, unknown), error, scrape_s (its last), scraped_s (when; NaN: never)."""
        rows = [(one["labels"]["job"], one["labels"]["instance"], one["health"], one["lastError"], one["lastScrapeDuration"],
                 _unix(one["lastScrape"])) for one in self._get("targets?state=active")["activeTargets"]]
        return pd.DataFrame(rows, columns=["job", "instance", "health", "error", "scrape_s", "scraped_s"])

    def ready(self) -> bool:
        """Whether it answers queries; a server that is not there is not ready."""
        try:
            return httpx.get(f"{self.url}/-/ready", timeout=self.timeout_s, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def skew_s(self, *, bound_s: float = 1.0) -> float:
        """How far its clock is ahead of ours, to half the time that asking takes. Refused beyond `bound_s`."""
        asked = time()
        theirs = float(self._query("query", "time()", {})["result"][1])
        skew = theirs - (asked + time()) / 2
        if abs(skew) > bound_s:
            raise Unanswered(f"the clock of {self.url} is {skew:+.1f} s from ours, more than {bound_s:g} s: times of the two cannot be "
                             f"compared; set both by NTP, or run both on one machine")
        return skew

    def _get(self, path: str) -> Any:
        return self._asked(path, "GET", None)

    def _query(self, path: str, expr: str, when: Mapping[str, str]) -> Any:
        # By POST: an expression may be longer than a URL.
        return self._asked(path, "POST", {"query": expr, **when, "timeout": f"{self.timeout_s:g}s"})

    def _asked(self, path: str, method: str, data: Mapping[str, str] | None) -> Any:
        of = repr(data["query"]) if data else path
        try:
            answer = httpx.request(method, f"{self.url}/api/v1/{path}", data=data, timeout=self.timeout_s, trust_env=False)
        except httpx.TimeoutException as error:
            raise Unanswered(f"{self.url} gave no answer to {of} within {self.timeout_s:g} s; ask for less, or wait longer") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unanswered(f"no Prometheus at {self.url} ({error}); start one: ./run_all.sh monitor") from error
        try:
            told = answer.json()
            status, wrong = told["status"], told.get("error", "")
        except (ValueError, TypeError, KeyError) as error:
            raise Unanswered(f"{self.url} is no Prometheus: {path} was answered {answer.status_code} {answer.text[:80]!r}") from error
        if status == "success":
            return told["data"]
        if told.get("errorType") == "timeout":
            raise Unanswered(f"{self.url} gave up on {of} after {self.timeout_s:g} s: {wrong}; ask for less, or wait longer")
        raise Unanswered(f"{self.url} refuses {of}: {wrong}")


def series(labels: Labels) -> str:
    """The one spelling of a series, whatever the order of its labels: `name{a="b"}`, escaped as in Prometheus' text format."""
    inside = ",".join(f'{name}="{escaped(labels[name])}"' for name in sorted(labels) if name != "__name__")
    return labels.get("__name__", "") + (f"{{{inside}}}" if inside or "__name__" not in labels else "")


def escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _frame(found: list[Any]) -> pd.DataFrame:
    """series (its canonical text), labels (a dict), t_s, value: one row a sample, series by series, each in the order of time."""
    texts = [series(one["metric"]) for one in found]
    counts = [len(one["values"]) for one in found]
    return pd.DataFrame({
        "series": pd.Series([text for text, n in zip(texts, counts, strict=True) for _ in range(n)], dtype="str"),
        "labels": pd.Series([one["metric"] for one, n in zip(found, counts, strict=True) for _ in range(n)], dtype="object"),
        "t_s": pd.Series([t for one in found for t, _ in one["values"]], dtype="float64"),
        "value": pd.Series([float(value) for one in found for _, value in one["values"]], dtype="float64"),
    })


def _series(found: Any, kind: str, expr: str) -> list[Any]:
    if found["resultType"] != kind:
        raise Unanswered(f"{expr!r} is a {found['resultType']}, not a {kind}")
    if any(("values" not in one and "value" not in one) or "histogram" in one or "histograms" in one for one in found["result"]):
        raise Unanswered(f"{expr!r} has native histograms, which are not read here: ask for a quantile or a count of them")
    return list(found["result"])


def _named(one: Any, expr: str) -> Labels:
    if "value" in one["metric"]:
        raise Unanswered(f"{expr!r} has a label `value`, which would hide the number: rename it with label_replace")
    return dict(one["metric"])


def _ms(s: float) -> str:
    return f"{s:.3f}"


def _unix(told: str) -> float:
    at = datetime.fromisoformat(told)
    return nan if at.year == 1 else at.timestamp()  # Go's zero time: never
