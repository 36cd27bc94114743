"""Of every alert the proof that it fires when it should and only then, as promtool's unit tests, told from what targets tell.

An alert's cases say what hurts and when it has to fire, worked out from the definitions, not from the rules' text; `proofs` makes scenes of
them: it fires at that time and not before, stays through scrapes that were lost or failed, ends; it is silent just below its threshold,
when nobody asks, and, where it compares with the past, without one.

    python -m lib.monitoring.proofs --write      renews monitoring/tests/
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from lib.home import ROOT
from lib.monitoring import cases, closure, config, promtool, recorded
from lib.monitoring.cases import Case, Spare
from lib.monitoring.rules import Group
from lib.monitoring.scenes import Change, Scene, World, together
from lib.monitoring.timing import PRODUCTION

Kind = Literal["fires", "resolves", "gap", "below", "idle", "young", "restart"]
TESTS = ROOT / "monitoring" / "tests"
SLACK = 2  # scrapes: a rate is known to that
HOLD = 12  # scrapes that a fault goes on after it was told, lost and failed ones early among them
MADE = "# Made by `python -m lib.monitoring.proofs --write`; run it with `promtool test rules monitoring/tests/*.yml`.\n"


@dataclass(frozen=True, slots=True)
class Check:
    """At `at_s` the expression gives these label sets with this value, and no other."""

    expr: str
    at_s: float
    labels: tuple[Mapping[str, str], ...] = ()
    value: float = 1


@dataclass(frozen=True, slots=True)
class Proof:
    """A scene and what has to be so in it. `kinds`: what that proves of the alert."""

    case: Case
    what: str
    kinds: tuple[Kind, ...]
    scene: Scene
    checks: tuple[Check, ...]


def proofs(case: Case) -> list[Proof]:
    """All that is to be shown of a case. What comes near is tried in one scene after another, with a rest between."""
    near = [spare for spare in case.spare if not spare.base]
    scenes = [_silent(case, "below", case.world, near)] if near else []
    scenes += [_silent(case, "below", together(case.world, spare.base), [spare]) for spare in case.spare if spare.base]
    if case.idle is not None:
        scenes.append(_silent(case, "idle", case.idle, [Spare("nobody asks", {})]))
    if case.past is not None:
        scenes.append(_silent(case, "young", case.world, [Spare("no past to compare with", case.hurt)], after_s=3600))
    return [_fires(case), *scenes]


def _fires(case: Case) -> Proof:
    step, slack = case.step_s, SLACK * case.step_s
    began = _up(case.history_s, step)
    told = _up(began + case.fires_s, step) + slack
    ended = told + HOLD * step
    keeps_s = cases.KEEPS_S if case.gauge else 0.0
    last = ended + _up(case.heals_s + keeps_s, step) + slack
    at = int(told / step)
    scene = Scene(case.world, last + step, step, (*_past(case), Change(began, ended, case.hurt)), lost=(at + 1, at + 2),
                  failed=(at + 4, at + 5))
    still = [Check(_now(case), _up(ended + case.heals_s, step) - slack, case.labels)] if case.heals_s > 2 * slack else []
    return Proof(case, f"fires after {case.fires_s:.0f} s, stays, ends", ("fires", "gap", "resolves"), scene, (
        Check(_ever(case, told - 2 * slack), told - 2 * slack),
        Check(_now(case), told, case.labels),
        Check(_ever(case, ended - step - told), ended - step, case.labels, HOLD),
        *still,
        Check(_now(case), last),
    ))  # fmt: skip


def _silent(case: Case, kind: Kind, world: World, spares: Sequence[Spare], *, after_s: float | None = None) -> Proof:
    step, gaps, changes = case.step_s, [], [*_past(case)] if after_s is None else []
    at = case.history_s if after_s is None else after_s
    if case.past is None and not any(spare.hurt for spare in spares):
        at = 0.0
    for spare in spares:
        span = _up(max(case.sure_s, case.fires_s + 10 * step if spare.lasts_s is None and spare.hurt else 0), step)
        changes.append(Change(at, at + (spare.lasts_s or span), spare.hurt))
        gaps.append(int((at + span) / step))
        at += span + _up(case.rest_s, step)
    lost, failed = (tuple(gap - n for gap in gaps for n in before) for before in ((4, 3), (1, 0)))
    scene = Scene(world, at, step, tuple(changes), lost=lost, failed=failed)
    what = "; ".join(spare.why for spare in spares)
    return Proof(case, f"silent: {what}", (kind, "gap"), scene, (Check(_ever(case, scene.length_s), scene.length_s),))


def _past(case: Case) -> tuple[Change, ...]:
    """A fifth of the history was otherwise, soon after its beginning: no median minds, and whatever is no median does."""
    return () if case.past is None else (Change(0.15 * case.history_s, 0.35 * case.history_s, case.past),)


def _now(case: Case) -> str:
    return f"sum without (alertname, alertstate) ({_firing(case)})"


def _ever(case: Case, span_s: float) -> str:
    """How often it fired in `span_s` up to now. Half a second more, for whether a range holds its left end depends on the version."""
    return f"sum without (alertname, alertstate) (count_over_time({_firing(case)}[{max(1, round(span_s))}s500ms]))"


def _firing(case: Case) -> str:
    only = "".join(f',{name}="{value}"' for name, value in case.only.items())
    return f'ALERTS{{alertname="{case.alert}",alertstate="firing"{only}}}'


def restart(groups: Sequence[Group]) -> dict[str, Any]:
    """Every counter begins anew in the middle, and scrapes are lost: nothing fires but the watchdog."""
    scene = Scene(cases.STACK, 2400, 15, lost=(60, 61), failed=(120, 121), restart_s=1200)
    return {"evaluation_interval": "15s", "tests": [{
        "name": "a restart of everything, lost scrapes, failed scrapes", "interval": "15s", "input_series": _series(scene, None),
        "promql_expr_test": [_told(Check('count by (alertname) (count_over_time(ALERTS{alertstate="firing"}[2400s]))', 2400,
                                         ({"alertname": "Watchdog"},)))],
    }]}  # fmt: skip


def apart(groups: Sequence[Group]) -> dict[str, tuple[list[Group], dict[str, Any]]]:
    """By window: all objectives but one burn, and their alerts fire, and not that one's."""
    found = {}
    for window, step in cases.STEPS_S.items():
        burns = [rule for group in groups for rule in group["rules"] if rule.get("labels", {}).get("window") == window]
        needed = closure.below(groups, burns)
        read = set().union(*(closure.names(rule) for group in needed for rule in group["rules"]))
        expr = f'sum without (alertstate) (ALERTS{{alertstate="firing",window="{window}"}})'
        found[window] = needed, {"evaluation_interval": f"{step:.0f}s", "tests": [
            {"name": "all objectives but one burn", "interval": f"{step:.0f}s",
             "input_series": _series(Scene(world, 30 * step, step), read),
             "promql_expr_test": [_told(Check(expr, 30 * step, labels))]} for world, labels in cases.apart(window)]}  # fmt: skip
    return found


def document(told: Sequence[Proof], groups: Sequence[Group]) -> dict[str, Any]:
    """Proofs of one alert and step as promtool's YAML, without its rule_files. Only series that the rules read are told."""
    case = told[0].case
    read = set().union(*(closure.names(rule) for group in closure.of(groups, case.alert, case.only) for rule in group["rules"]))
    return {"evaluation_interval": f"{case.step_s:.0f}s", "tests": [
        {"name": f"{proof.case.alert}: {proof.case.what}: {proof.what}", "interval": f"{case.step_s:.0f}s",
         "input_series": _series(proof.scene, read), "promql_expr_test": [_told(check) for check in proof.checks]} for proof in told
    ]}  # fmt: skip


def _series(scene: Scene, read: set[str] | None) -> list[dict[str, str]]:
    wanted = {name: level for name, level in scene.world.items() if read is None or name.partition("{")[0] in read}
    told = Scene(wanted, scene.length_s, scene.step_s,
                 tuple(Change(c.since_s, c.until_s, {k: v for k, v in c.levels.items() if k in wanted}) for c in scene.changes),
                 scene.lost, scene.failed, scene.restart_s)  # fmt: skip
    return [{"series": name, "values": values} for name, values in told.values().items()]


def _told(check: Check) -> dict[str, Any]:
    samples = [{"labels": "{" + ", ".join(f'{k}="{v}"' for k, v in sorted(labels.items())) + "}", "value": check.value}
               for labels in check.labels]  # fmt: skip
    return {"expr": check.expr, "eval_time": f"{check.at_s:.0f}s", "exp_samples": samples}


def _up(s: float, step_s: float) -> float:
    return -(-s // step_s) * step_s


def all_files(groups: Sequence[Group]) -> dict[str, tuple[list[Proof], dict[str, Any]]]:
    """File name → its proofs and promtool's YAML, without rule_files: one an alert, and one each window of a burn."""
    by: dict[str, list[Proof]] = {}
    for case in cases.CASES:
        by.setdefault("-".join((case.alert.lower(), *case.only.values())), []).extend(proofs(case))
    return {name: (told, document(told, groups)) for name, told in by.items()}


def everything(groups: Sequence[Group]) -> dict[str, tuple[list[Group], dict[str, Any]]]:
    """Name → the rules that are tried, and promtool's YAML without its rule_files. All but `restart`, which tries all rules."""
    alone = {name: (closure.of(groups, told[0].case.alert, told[0].case.only), tests) for name, (told, tests) in all_files(groups).items()}
    return {**alone, **{f"apart-{window}": told for window, told in apart(groups).items()},
            **{f"recorded-{name}": told for name, told in recorded.documents(groups).items()}}  # fmt: skip


def tried(tests: Mapping[str, Any], groups: Sequence[Group]) -> str | None:
    """promtool's tests under rules that need not be in files."""
    with tempfile.TemporaryDirectory(prefix="proof-") as folder:
        rules, test = Path(folder) / "rules.yml", Path(folder) / "test.yml"
        rules.write_text(_yaml({"groups": list(groups)}), encoding="utf-8")
        test.write_text(_yaml({"rule_files": [rules.name], **tests}), encoding="utf-8")
        return promtool.test_rules([test])


def files() -> dict[str, str]:
    """File name → text of monitoring/tests/: the proofs under the rules that are taken home."""
    groups = config.groups(PRODUCTION)
    home = {group["name"]: f"../{path}" for path, text in config.files(PRODUCTION).items() if path.startswith("rules/")
            for group in yaml.safe_load(text)["groups"]}  # fmt: skip
    made = {f"{name}.yml": MADE + _yaml({"rule_files": list(dict.fromkeys(home[group["name"]] for group in needed)), **tests})
            for name, (needed, tests) in everything(groups).items()}  # fmt: skip
    made["restart.yml"] = MADE + _yaml({"rule_files": ["../rules/*.yml"], **restart(groups)})
    return made


def write(folder: Path = TESTS) -> Iterable[Path]:
    """Renew them; those that nobody makes any more go."""
    folder.mkdir(exist_ok=True)
    wanted = files()
    for old in folder.glob("*.yml"):
        if old.name not in wanted:
            old.unlink()
    for name, text in wanted.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in wanted]


def _yaml(tree: Mapping[str, Any]) -> str:
    return yaml.dump(tree, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False, allow_unicode=True, width=200)


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("python -m lib.monitoring.proofs --write renews monitoring/tests/")
    print("\n".join(str(path.relative_to(ROOT)) for path in write()))
