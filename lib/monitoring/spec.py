"""Service level objectives as files, in Sloth's format: what is promised, and the two queries that count it.

A file that cannot be trusted is refused as a whole, naming file, objective and key: a key that nobody reads, a query without its window or
over a metric that nobody exposes, an objective so low that no burn could reach the fastest alert. A silently ignored line is a page that
never comes.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import yaml

from lib.monitoring import known, promql
from lib.monitoring.slo import PAIRS

VERSION, WINDOW = "prometheus/v1", "{{.window}}"
MOST_BYTES, MOST_QUERY = 64 * 1024, 1000  # of deeper queries the parser overflows its stack, and takes the process along
FASTEST = max(pair.factor for pair in PAIRS)
NAME, ALERT, LABEL = re.compile(r"[a-z][a-z0-9-]{0,31}"), re.compile(r"[A-Z][A-Za-z0-9]{0,63}"), re.compile(r"[a-z_][a-z0-9_]{0,31}")
TAKEN = ("service", "slo", "severity", "window")  # labels that the rules set themselves


class BadSpec(ValueError):
    """A specification that cannot be trusted; the message names the file, the objective and what to change."""


@dataclass(frozen=True, slots=True)
class Slo:
    """`objective`: percent of events that are to be good. `errors`, `total`: events per second over WINDOW, in PromQL."""

    service: str
    name: str
    objective: Decimal
    description: str
    errors: str
    total: str
    alert: str
    labels: Mapping[str, str] = field(hash=False)

    @property
    def budget(self) -> Decimal:
        """The share of events that may be bad."""
        return (100 - self.objective) / 100


def load(folder: Path) -> tuple[Slo, ...]:
    """All objectives of a folder's *.yaml, in the order of files. Raises BadSpec."""
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise BadSpec(f"{folder.name}: there is no *.yaml with objectives in it")
    found: dict[str, str] = {}
    slos = []
    for file in files:
        for slo in read(file.read_bytes(), file.name):
            for name in (f"{slo.service}/{slo.name}", slo.alert):
                if name in found:
                    raise BadSpec(f"{file.name}: {name} is there already, in {found[name]}; name each once")
                found[name] = file.name
            slos.append(slo)
    return tuple(slos)


def read(told: bytes, file: str) -> list[Slo]:
    """The objectives of one file's bytes. Raises BadSpec."""
    if len(told) > MOST_BYTES:
        raise BadSpec(f"{file}: {len(told)} bytes are more than the {MOST_BYTES} that objectives need")
    try:
        tree = yaml.load(told, _Strict)  # a BaseLoader: text, lists and mappings, nothing else
    except (yaml.YAMLError, UnicodeError, RecursionError) as error:
        raise BadSpec(f"{file} is not YAML: {' '.join(str(error).split())[:300]}") from error
    top = _keys(tree, file, "version", "service", "slos", optional=("labels",))
    if top["version"] != VERSION:
        raise BadSpec(f"{file}: version: write {VERSION}, the only one read here")
    service = _text(top["service"], f"{file}: service", NAME)
    if not isinstance(top["slos"], list) or not top["slos"]:
        raise BadSpec(f"{file}: slos: a list with at least one objective belongs here")
    shared = _labels(top.get("labels", {}), f"{file}: labels")
    return [_slo(one, f"{file}: slos[{n}]", service, shared) for n, one in enumerate(top["slos"])]


def series(query: str) -> set[str]:
    """The names of series that a PromQL expression reads. Raises ValueError where it does not parse, or selects without a name."""
    if len(query) > MOST_QUERY:
        raise ValueError(f"{len(query)} characters; write it in {MOST_QUERY}")
    names = set()
    for node in promql.walk(promql.parse(query)):
        if node.kind == "VectorSelector":
            if node.expr.name is None:
                raise ValueError(f"{node.expr.prettify()} selects without a metric's name")
            names.add(node.expr.name)
    return names


def unknown(query: str, recorded: Sequence[str] = ()) -> str | None:
    """What is wrong with the metrics that a query reads: the first that no exporter has and no rule records, and its likeliest name."""
    for name in sorted(series(query)):
        if known.find(name) is None and name not in recorded:
            all_names = [*recorded, *(part for metric in known.metrics().values() for part in metric.series)]
            close = difflib.get_close_matches(name, all_names, n=1)
            return f"nobody exposes {name}; did you mean {close[0]}?" if close else f"nobody exposes {name}; see monitoring/metrics.csv"
    return None


def _slo(told: Any, where: str, service: str, shared: Mapping[str, str]) -> Slo:
    top = _keys(told, where, "name", "objective", "description", "sli", "alerting")
    name = _text(top["name"], f"{where}: name", NAME)
    where = f"{where} ({name})"
    events = _keys(_keys(top["sli"], f"{where}: sli", "events")["events"], f"{where}: sli.events", "error_query", "total_query")
    alerting = _keys(top["alerting"], f"{where}: alerting", "name", optional=("labels",))
    return Slo(
        service, name, _objective(top["objective"], f"{where}: objective"), _text(top["description"], f"{where}: description"),
        _query(events["error_query"], f"{where}: sli.events.error_query"),
        _query(events["total_query"], f"{where}: sli.events.total_query"),
        _text(alerting["name"], f"{where}: alerting.name", ALERT),
        {**shared, **_labels(alerting.get("labels", {}), f"{where}: alerting.labels")},
    )  # fmt: skip


def _objective(told: Any, where: str) -> Decimal:
    text = _text(told, where)
    try:
        objective = Decimal(text)
    except InvalidOperation:
        raise BadSpec(f"{where}: {text[:40]!r} is no number; write percent, such as 99.5") from None
    if not objective.is_finite() or not 0 < objective < 100 or len(text) > 12:
        raise BadSpec(f"{where}: {text[:40]} is no percentage between 0 and 100 that can be promised; write such as 99.5")
    if float(100 - objective) / 100 * FASTEST >= 1:
        raise BadSpec(f"{where}: below {100 * (1 - 1 / FASTEST):.1f} the fastest alert ({FASTEST} times too fast) could never fire; "
                      f"promise more than {text}, or alert on something else")
    return objective


def _query(told: Any, where: str) -> str:
    query = " ".join(_text(told, where).split())
    if WINDOW not in query:
        raise BadSpec(f"{where}: without {WINDOW} every window would count the same; write rate(x_total[{WINDOW}])")
    try:
        wrong = unknown(query.replace(WINDOW, "5m"))
    except (ValueError, RecursionError) as error:
        raise BadSpec(f"{where}: not PromQL: {error}") from error
    if wrong:
        raise BadSpec(f"{where}: {wrong}")
    return query


def _labels(told: Any, where: str) -> dict[str, str]:
    if not isinstance(told, dict):
        raise BadSpec(f"{where}: label names and their values belong here")
    for name, value in told.items():
        _text(name, f"{where}: a label's name", LABEL)
        _text(value, f"{where}.{name}")
        if name in TAKEN:
            raise BadSpec(f"{where}.{name}: the rules set {', '.join(TAKEN)} themselves; choose another name")
    return told


def _keys(told: Any, where: str, *needed: str, optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """`told`, if it is a mapping of these keys and no others."""
    if not isinstance(told, dict):
        raise BadSpec(f"{where}: the keys {', '.join(needed)} belong here")
    for key in told:
        if key not in (*needed, *optional):
            close = difflib.get_close_matches(str(key)[:80], (*needed, *optional), n=1)
            raise BadSpec(f"{where}: nobody reads {str(key)[:80]!r}; {f'did you mean {close[0]}?' if close else 'take it out'}")
    if missing := [key for key in needed if key not in told]:
        raise BadSpec(f"{where}: {', '.join(missing)} is missing")
    return told


def _text(told: Any, where: str, form: re.Pattern[str] | None = None) -> str:
    if not isinstance(told, str) or not told.strip():
        raise BadSpec(f"{where}: a text belongs here")
    if form is not None and not form.fullmatch(told):
        raise BadSpec(f"{where}: {told[:80]!r} is no name here; it has to match {form.pattern}")
    return told


class _Strict(yaml.BaseLoader):
    """Refuses a key that is told twice: YAML's last one would win in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise yaml.constructor.ConstructorError(None, None, f"{sorted(twice)[0]!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)
