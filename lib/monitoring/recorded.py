"""What every recorded series ought to say of a stack whose numbers are known, worked out by hand and not from the rules' text.

Two instances of everything, the second half as busy, so that a sum is no mean; for most of the time all of them were three times as
quick, so that a longer window says something else than five minutes do. Medians of a week are left to the alerts that compare with them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lib.monitoring import closure, tsdb
from lib.monitoring import healthy as h
from lib.monitoring.prometheus import series
from lib.monitoring.rules import Group
from lib.monitoring.scenes import Change, Level, Scene, World, counter, scaled, together

STEP_S, CHANGED_S, AT_S = 30.0, 2100.0, 2400.0
BEFORE = 3  # times as quick
BOTH = 1.5  # a sum over the two instances
EXACT = 0.002  # of the value
OUTCOMES = {"ok": 10.0, "empty": 1.0, "client": 5.0, "refused": 2.0, "timeout": 3.0, "unreachable": 4.0, "server": 0.5}
SHARES = {"fraud": 2.0, "llm": 1.0, "retail": 0.5}
BAD = ("empty", "refused", "timeout", "unreachable", "server")
ZERO = {"service:errors:ratio_rate5m": 0.0, "slo:error_budget_left:ratio": 1.0}  # what a ratio is where there is nothing to divide by
RATIOS = "slo:sli_error:ratio_rate"
OWN = {"fraud": "fraud_", "llm": "gen_ai", "retail": "retail_"}
SELDOM = "slo:sli_error:.+|.+_median1w"
QUANTILES = ("p50", "p95", "p99")
MODEL, CARD = {"model": h.MODEL}, h.CARD


@dataclass(frozen=True, slots=True)
class Value:
    """A series and what it is."""

    name: str
    labels: Mapping[str, str]
    value: float


def world() -> World:
    """The healthy stack with outcomes, waiting, scores, frames and throttling that can be told apart, twice."""
    return _twice(_one())


def _one() -> World:
    asked = [counter("gateway_requests_total", rate * share, service=service, outcome=outcome, **h.at("gateway"))
             for service, share in SHARES.items() for outcome, rate in OUTCOMES.items()]  # fmt: skip
    return together(h.stack(), *asked, h.engines(waiting=1), h.scores({**h.SCORES, "0.001": 0.5}), h.frames(dropped=0.4),
                    h.card(power=0.3, thermal=0.2))  # fmt: skip


def _twice(one: World) -> World:
    halved = {_second(name): Level(None if level.value is None else level.value / 2, level.counter)
              for name, level in one.items()}  # fmt: skip
    return together(one, halved)


def before() -> World:
    """How it was until CHANGED_S: quicker counters, and distributions of another shape, with as much of them within each objective."""
    shapes = together(
        h.answered({**h.FRAUD, "0.001": 0.0, "0.0022": 0.0, "0.0047": 0.1, "0.01": 0.5, "0.047": 0.9}),
        h.answered({**h.LLM, "0.22": 0.1, "1": 0.5}, "llm"), h.scores({**h.SCORES, "0.001": 0.2}),
        h.first_tokens({**h.FIRST, "0.1": 0.0, "0.15": 0.0, "0.22": 0.1, "0.33": 0.2, "0.47": 0.5}),
        h.each_token({**h.EACH, "0.01": 0.0, "0.022": 0.1, "0.047": 0.5}), h.frames(dropped=0.4, ages={**h.AGES, "0.1": 0.1, "0.25": 0.5}))
    return {name: level for name, level in scaled(_twice(together(_one(), shapes)), BEFORE).items() if level.counter}


def _second(name: str) -> str:
    told = tsdb.labels(name)
    return series({**told, "instance": told["instance"] + "-2"})


def values() -> list[Value]:
    """Every one of them, at AT_S."""
    return [*_services(), *_llm(), *_rest(), *_slo()]


def _services() -> list[Value]:
    bad, found = sum(OUTCOMES[kind] for kind in BAD), []
    for service, share in SHARES.items():
        of, k = {"service": service}, BOTH * share
        found += [Value("service:requests:rate5m", of, k * sum(OUTCOMES.values())),
                  Value("service:valid_requests:rate5m", of, k * (bad + OUTCOMES["ok"])),
                  Value("service:errors:ratio_rate5m", of, bad / (bad + OUTCOMES["ok"])),
                  *(Value("service:errors:rate5m", {**of, "outcome": kind}, k * OUTCOMES[kind]) for kind in BAD)]  # fmt: skip
    for service, *quantiles in (("fraud", 0.00196, 0.0047 + 0.0053 / 3, 0.01), ("llm", 0.22, 1.0, 1 + 1.2 * 4 / 5)):
        found += [Value(f"service:latency_seconds:{p}", {"service": service}, s) for p, s in zip(QUANTILES, quantiles, strict=True)]
    return found


def _llm() -> list[Value]:
    found = [Value(f"llm:ttft_seconds:{p}", MODEL, s) for p, s in (("p50", 0.13), ("p95", 0.22), ("p99", 0.33))]
    found += [Value(f"llm:tpot_seconds:{p}", MODEL, s) for p, s in (("p50", 0.016), ("p95", 0.022 + 0.025 * 5 / 9), ("p99", 0.047))]
    output, steps = 24 * BOTH, 12 * BOTH
    # Thirty minutes of five-minute rates: 51 looks at the old one, ten on the way to the new.
    working = (51 * BEFORE + sum(BEFORE - (BEFORE - 1) * k / 10 for k in range(1, 11))) / 61 * output / (2 * BOTH)
    for engine, cached in (("llama.cpp", 28), ("vLLM", 56)):
        found += [Value(f"llm:{name}", {"engine": engine, **MODEL}, value) for name, value in (
            ("input_tokens:rate5m", 40 * BOTH), ("cached_tokens:rate5m", cached * BOTH), ("output_tokens:rate5m", output),
            ("running:requests", 2 * BOTH), ("waiting:requests", BOTH), ("decode_steps:rate5m", steps), ("batch:requests", output / steps),
            ("mbu:ratio", steps * 1e8 / 4e10), ("tokens_per_running_request:rate30m", working))]  # fmt: skip
    found.append(Value("llm:kv_cache_usage:ratio", {"engine": "vLLM", **MODEL}, 0.4))
    for kind, n in h.TOKENS.items():
        found += [Value("llm:tokens_per_request:ratio5m", {**MODEL, "type": kind}, n),
                  Value("llm:cost_usd_per_hour", {**MODEL, "type": kind}, BOTH * h.RATES["llm"] * n * h.PRICES[kind] * 3600)]
    again, new = h.TOKENS["input_cached"], h.TOKENS["input_uncached"]
    found.append(Value("llm:cached_input:ratio5m", MODEL, again / (again + new)))
    return [*found, Value("llm:cost_usd_per_request:ratio5m", MODEL, sum(n * h.PRICES[kind] for kind, n in h.TOKENS.items())),
            Value("machine:cost_usd_per_hour", {}, 0.2 * BOTH)]


def _rest() -> list[Value]:
    one, two = {"instance": "node:1"}, {"instance": "node:1-2"}
    return [
        Value("fraud:score_shift:ks", {}, 0.1), Value("fraud:score_shift:bound", {}, 1.95 / (20 * BOTH * 300) ** 0.5),
        *(Value("retail:frames:rate5m", {"outcome": kind}, rate * BOTH)
          for kind, rate in (("seen", 5), ("dropped", 0.4), ("gated", 0), ("failed", 0))),
        Value("retail:frame_age_seconds:p95", {}, 0.225),
        Value("host:cpu_busy:ratio", one, 0.5), Value("host:cpu_busy:ratio", two, 0.75),
        Value("host:cpu_pressure:ratio", one, 0.2), Value("host:cpu_pressure:ratio", two, 0.1),
        Value("host:memory_available:ratio", one, 0.5), Value("host:memory_available:ratio", two, 0.5),
        Value("job:resident_memory_bytes:max", {"job": "gateway"}, 1e8), Value("job:resident_memory_bytes:max", {"job": "retail"}, 3e8),
        Value("gpu:utilisation:ratio", CARD, 0.6), Value("gpu:memory_used:ratio", CARD, 60 / 140), Value("gpu:power_watts", CARD, 400),
        Value("gpu:tensor_active:ratio", CARD, 0.3), Value("gpu:dram_active:ratio", CARD, 0.5),
        Value("gpu:throttled:ratio", {**CARD, "cause": "power"}, 0.3), Value("gpu:throttled:ratio", {**CARD, "cause": "thermal"}, 0.2),
    ]  # fmt: skip


def _slo() -> list[Value]:
    bad = sum(OUTCOMES[kind] for kind in BAD)
    valid, total = bad + OUTCOMES["ok"], BEFORE * CHANGED_S + AT_S - CHANGED_S
    found = []
    for service, slo, objective, errors, events in (
        ("fraud", "availability", 0.99, 2 * bad, 2 * valid), ("fraud", "latency", 0.99, 0.02, 20),
        ("llm", "availability", 0.99, bad, valid),
        ("llm", "ttft", 0.99, 0.002, 2), ("llm", "tpot", 0.99, 0.002, 2), ("retail", "freshness", 0.975, 0.405, 5.4),
    ):  # fmt: skip
        of = {"service": service, "slo": slo}
        found += [Value(f"slo:{name}", of, value) for name, value in (
            ("objective:ratio", objective), ("error_budget:ratio", 1 - objective), ("errors:rate5m", errors * BOTH),
            ("events:rate5m", events * BOTH), ("error_budget_left:ratio", 1 - errors / events / (1 - objective)),
            *((f"sli_error:ratio_rate{window}", errors / events) for window in ("5m", "30m", "1h", "2h", "6h", "1d", "3d")),
            *((f"errors:increase{window}", errors * BOTH * total) for window in ("1h", "6h", "1d", "3d")))]  # fmt: skip
    return found


def documents(groups: Sequence[Group]) -> dict[str, tuple[list[Group], dict[str, Any]]]:
    """By the group whose series are looked at: the rules that make them, and promtool's YAML without its rule_files."""
    known, found = values(), {}
    for group in groups:
        wanted = [rule for rule in group["rules"] if "record" in rule]
        checks = [value for value in known if any(_made_by(value, rule) for rule in wanted)]
        if checks:
            needed = closure.below(groups, wanted)
            read = set().union(*(closure.names(rule) for one in needed for rule in one["rules"]))
            found[group["name"]] = needed, _document(group["name"], checks, read)
    return found


def _made_by(value: Value, rule: Mapping[str, Any]) -> bool:
    return bool(value.name == rule["record"] and rule.get("labels", {}).items() <= value.labels.items())


def _document(group: str, checks: Sequence[Value], read: set[str]) -> dict[str, Any]:
    told, quick, still = ({name: level for name, level in each.items() if name.partition("{")[0] in read}
                          for each in (world(), before(), h.idle()))  # fmt: skip
    others = {name: level for name, level in _others(group).items() if name.partition("{")[0] in read}
    counts = Counter(series({"__name__": value.name, **_own(value, group)}) for value in checks)
    zeros = [value for value in checks if value.name in ZERO or value.name.startswith(RATIOS)]
    return {"evaluation_interval": f"{STEP_S:.0f}s", "tests": [
        _test(f"what {group} records", Scene(told, AT_S, STEP_S, (Change(0, CHANGED_S, quick),)),
              [*((_near(value), value.labels, 1) for value in checks), *((f"count({name})", {}, n) for name, n in counts.items())]),
        _test(f"what {group} does not record of others, nor of a week that has not been", Scene(others, 600, STEP_S),
              [(f'count({{__name__=~"{SELDOM}"}})', None, 0)]),
        _test(f"what {group} records when nobody asks", Scene(still, 600, STEP_S),
              [*((f"1 * {series({'__name__': value.name, **value.labels})}", value.labels, ZERO.get(value.name, 0)) for value in zeros),
               *((f"count({name} != {name})", None, 0) for name in counts)]),
    ]}  # fmt: skip


def _others(group: str) -> World:
    """For an objective all that is not its service's, and what its callers did wrong; else a stack that has only begun."""
    service = group.split("-")[1] if group.startswith("slo-") else ""
    own = (OWN.get(service, "?"), f'service="{service}"')
    return {name: level for name, level in h.stack().items() if not any(part in name for part in own) or 'outcome="client"' in name}


def _test(name: str, scene: Scene, checks: Sequence[tuple[str, Mapping[str, str] | None, float]]) -> dict[str, Any]:
    return {"name": name, "interval": f"{STEP_S:.0f}s",
            "input_series": [{"series": one, "values": text} for one, text in scene.values().items()],
            "promql_expr_test": [{"expr": expr, "eval_time": f"{scene.length_s:.0f}s",
                                  "exp_samples": [] if labels is None else [{"labels": series(labels), "value": value}]}
                                 for expr, labels, value in checks]}


def _own(value: Value, group: str) -> Mapping[str, str]:
    """Objectives share the names of their series: each is counted alone."""
    return {key: value.labels[key] for key in ("service", "slo")} if group.startswith("slo-") else {}


def _near(value: Value) -> str:
    """1 where the series is what it ought to be, give or take. Its labels are compared by promtool, all of them."""
    one = series({"__name__": value.name, **value.labels})
    return f"abs({one} - {value.value:.9g}) <= bool {max(abs(value.value) * EXACT, 1e-12):.3g}"
