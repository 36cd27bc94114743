"""The rules on trial: their proofs, mutants of them, clean days, the lint beside others'. Each kept as a point; views of them for readers.

None of it is timed, so other work on the machine does not matter. What cannot be had (promtool, vLLM's dashboards) is a row that says why.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pandas as pd

from lib import fetch
from lib.install import Missing
from lib.measured import Found, Skipped, keep, points, series
from lib.monitoring import config, proofs, quiet, sla, tools, tsdb, verdict
from lib.monitoring import lint as rules_of_lint
from lib.monitoring import mutants as changed
from lib.monitoring.session import Session
from lib.monitoring.timing import PRODUCTION

CLEAN_DAYS = {"quick": 3, "full": 7}
MUTANTS = {"smoke": 2, "quick": 72, "full": 400}
DAY_S = 576.0  # of a drill: a day ÷ 150
KINDS = {
    "fires": "fires under its fault, when it should and not before", "resolves": "ends after it", "gap": "survives scrapes that are lost",
    "below": "is silent just below its threshold", "idle": "is silent without traffic", "young": "is silent without a past to compare with",
    "restart": "is silent when counters begin anew",
}  # fmt: skip


def tried(s: Session, profile: str) -> None:
    """All of them, unless the run holds them."""
    if s.model is None:
        return
    if profile != "smoke":  # they take a minute, and the tests try them too
        keep(s.run, {"what": "proofs"}, _proofs, timed=False)
    keep(s.run, {"what": "mutants", "n": MUTANTS[profile]}, partial(_mutants, MUTANTS[profile]), timed=False)
    keep(s.run, {"what": "lint"}, _lint, timed=False)
    if profile in CLEAN_DAYS:
        keep(s.run, {"what": "quiet", "days": CLEAN_DAYS[profile]}, partial(_quiet, s, CLEAN_DAYS[profile]), timed=False)


def _promtool() -> None:
    if isinstance(lacks := tools.find("promtool"), Missing):
        raise Skipped(lacks.reason)


def _proofs() -> Found:
    """Every committed proof, tried by promtool; what failed is the point's reason."""
    _promtool()
    groups = config.groups(PRODUCTION)
    every = proofs.everything(groups)
    with ThreadPoolExecutor(2) as pool:  # promtool is a process
        said = list(pool.map(lambda one: proofs.tried(one[1], one[0]), every.values()))
    wrong = [f"{name}: {why}" for name, why in zip(every, said, strict=True) if why]
    rows = [{"file": name, "alert": proof.case.alert, "kind": kind}
            for name, (told, _) in proofs.all_files(groups).items() for proof in told for kind in proof.kinds]  # fmt: skip
    return Found({}, {"proofs": rows, "files": len(every)}, {"proofs": "; ".join(wrong)[:400] or None})


def _quiet(s: Session, days: int) -> Found:
    """Clean days made of the recorded clean requests, each of other chances. What fired is told, not refused: it is the finding."""
    _promtool()
    logs = [series(s.run, point, "log") for point in points(s.run, "steady") if point["engine"] == "llamacpp"]
    if not logs:
        raise Skipped("no clean requests were recorded that days could be made of")
    with ThreadPoolExecutor(2) as pool:
        found = quiet.joined(list(pool.map(lambda day: quiet.replayed(logs[0], hours=24, seed=day), range(days))))
    return Found({}, quiet.facts(found), {"6 books": None if found.hours == 24 * days else f"{found.hours:g} hours were replayed"})


def _mutants(n: int) -> Found:
    _promtool()
    told = changed.survey(0, n).astype(object)
    rows = told.where(told.notna(), None).to_dict("records")
    return Found({}, {"mutants": rows}, {"6 books": None if len(rows) == n else f"{len(rows)} of {n} were tried"})


def _lint() -> Found:
    try:
        told = rules_of_lint.compare()
    except fetch.Refused as lacks:
        raise Skipped(str(lacks)) from lacks
    return Found({}, {"findings": told.to_dict("records")}, {"6 books": None if len(told) else "no rule was applied"})


def proven(s: Session) -> pd.DataFrame:
    """kind, what it proves, alerts, proofs."""
    rows = [row for point in points(s.run, "proofs") for row in point["facts"]["proofs"]]
    told = pd.DataFrame(rows, columns=["file", "alert", "kind"])
    return pd.DataFrame([{"proof": KINDS[str(kind)], "alerts": one["alert"].nunique(), "scenes": len(one)}
                         for kind, one in told.groupby("kind", sort=False)])  # fmt: skip


def mutants(s: Session) -> pd.DataFrame:
    """kind of change, how many, how many were noticed, and by whom; equivalent ones apart."""
    rows = [row for point in points(s.run, "mutants") for row in point["facts"]["mutants"]]
    told = pd.DataFrame(rows, columns=["kind", "where", "what", "caught", "by", "equivalent"])
    return pd.DataFrame([{
        "change": kind, "tried": len(one),
        "noticed": int((one["caught"].astype(bool) & one["equivalent"].isna()).sum()), "by": ", ".join(sorted(one["by"].dropna().unique())),
        "the same in effect": int(one["equivalent"].notna().sum()),
        "missed": "; ".join(one.loc[~one["caught"].astype(bool) & one["equivalent"].isna(), "where"][:3]),
    } for kind, one in told.groupby("kind", sort=False)])  # fmt: skip


def caught(found: pd.DataFrame) -> dict[str, Any]:
    """Of those that change anything."""
    if not len(found) or not (n := int((found["tried"] - found["the same in effect"]).sum())):
        return dict.fromkeys(("hits", "n", "share", "lo", "hi"))
    return verdict.share(int(found["noticed"].sum()), n)


def clean(s: Session) -> dict[str, Any]:
    """Clean time replayed: hours, rules' evaluations in which anything fired, what, and the most false alarms a week that are likely."""
    for point in points(s.run, "quiet"):
        told = point["facts"]
        found = quiet.Quiet(told["hours"], told["alarms"], told["requests"], told["errors"])
        return {"hours": found.hours, "fired": sum(found.alarms.values()), "names": ", ".join(found.alarms) or "no rule",
                "per_week": found.bound_per_h * 168, "requests": found.requests}  # fmt: skip
    return dict.fromkeys(("hours", "fired", "names", "per_week", "requests"))


def linted(s: Session) -> pd.DataFrame:
    """A row a rule that found anything: ours, vLLM's, an example of theirs."""
    rows = [row for point in points(s.run, "lint") for row in point["facts"]["findings"]]
    told = pd.DataFrame(rows, columns=["owner", "panels", "rule", "why", "findings", "example"])
    wide = told.pivot_table(index=["rule", "why"], columns="owner", values="findings", aggfunc="sum").reset_index()
    examples = told[told["owner"] != "ours"].set_index("rule")["example"]
    return wide.assign(example=wide["rule"].map(examples)) if len(wide) else wide


def days(s: Session) -> pd.DataFrame:
    """The service levels of the drill's first round, from its exported series."""
    found = [p for p in points(s.run, "drill") if "series" in p["facts"]["series"]]
    if not found:
        return pd.DataFrame()
    samples = pd.concat([tsdb.unpacked(series(s.run, point, "series")) for point in found], ignore_index=True)
    begun = min(point["facts"]["began_unix"] for point in found)
    return sla.report(samples, start_s=begun, end_s=float(samples["t_s"].max()), day_s=DAY_S)
