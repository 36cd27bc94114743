"""The drill's findings in readers' units: who would have known, how fast, as forecast or not, what showed what. Frames and fields, pure.

Every share has its exact interval. A scenario that is no evidence (nothing was seen to happen, or something fired before) is not counted
as detected nor as missed: it stands in the table of points that did not pass.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lib import stats
from lib.measured import points, series
from lib.monitoring import dashboards, verdict
from lib.monitoring.dashboards.query import panels
from lib.monitoring.session import Session

FIRED, FIRST = 1.0, 2.0
# Panels that no fault of a drill could move, by dashboard and title, and why.
CONSTANT = {
    ("inference-slo", "Objective"): "a promise: it changes when somebody changes it",
    ("inference-cost", "Machine"): "a price: what this machine costs an hour, busy or not",
    ("inference-machine", "GPUs"): "a count of cards: it falls when a card leaves the bus, and here is none",
}
CONSTANTLY, NO_DATA = "a constant: ", "no data here: "


def courses(s: Session) -> pd.DataFrame:
    """A row a scenario and round that is evidence."""
    return verdict.courses(list(points(s.run, "drill"))).sort_values(["round", "scenario"], ignore_index=True)


def headline(told: pd.DataFrame) -> dict[str, Any]:
    """Fields of the summary: shares of faults detected, of right alerts first, of forecasts kept; alarms in controls."""
    faults, controls = told[~told["control"]], told[told["control"]]
    if not len(faults):
        return dict.fromkeys(("faults", "kinds", "rounds", "median_s", "slowest_s", "slowest"))
    found, due = faults[faults["detected"]], faults[faults["as_due"].notna()]
    shares = {
        "detected": verdict.share(int(faults["detected"].sum()), len(faults)),
        "first": verdict.share(int(faults["right_first"].sum()), len(faults)),
        "due": verdict.share(int(due["as_due"].sum()), len(due)) if len(due) else {},
    }
    slowest = found.nlargest(1, "at_s").iloc[0] if len(found) else None
    return {
        "faults": len(faults),
        "kinds": faults["scenario"].nunique(),
        "rounds": int(faults.groupby("scenario")["round"].nunique().min()),  # that every fault has been through
        "median_s": float(found["at_s"].median()) if len(found) else None,
        "slowest_s": None if slowest is None else slowest["at_s"],
        "slowest": None if slowest is None else slowest["scenario"],
        "controls": len(controls),
        "false_alarms": int((controls["alarms"] > 0).sum()),
        **{f"{name}_{key}": value for name, share in shares.items() for key, value in share.items()},
    }


def shown(told: pd.DataFrame) -> pd.DataFrame:
    """A row a fault: what came, of how many rounds; medians of the times, in s."""
    rows = []
    for name, one in told[~told["control"]].groupby("scenario", sort=False):
        first = one["first"].dropna()
        rows.append(
            {
                "fault": name,
                "what is done": one["does"].iloc[0],
                "right alert": one["right"].iloc[0],
                "detected": f"{int(one['detected'].sum())} of {len(one)}",
                "right one first": f"{int(one['right_first'].sum())} of {len(one)}",
                "came first": " or ".join(dict.fromkeys(first)) if len(first) else None,
                "after, s": one["at_s"].median(),
                "due, s": one["due_s"].median(),
                "within a scrape and an evaluation": f"{int((one['as_due'] == True).sum())} of {len(one)}",  # noqa: E712
                "over, s": one["over_s"].median(),
                "due over, s": one["over_due_s"].median(),
            }
        )
    return pd.DataFrame(rows).sort_values("after, s", ignore_index=True) if rows else pd.DataFrame()


def controls(told: pd.DataFrame) -> pd.DataFrame:
    """What only looked like a fault, and what fired."""
    return pd.DataFrame(
        [
            {
                "control": name,
                "what is done": one["does"].iloc[0].removeprefix("control: "),
                "rounds": len(one),
                "rounds with an alarm": int((one["alarms"] > 0).sum()),
                "what fired": ", ".join(one["first"].dropna().unique()) or "nothing",
            }
            for name, one in told[told["control"]].groupby("scenario", sort=False)
        ]
    )


def witnessed(told: pd.DataFrame) -> pd.DataFrame:
    """Each fault's impact, by a witness that is not Prometheus: medians over the rounds."""
    return pd.DataFrame(
        [
            {"fault": name, "witness": one["witness"].iloc[0], "before": one["before"].median(), "during": one["during"].median()}
            for name, one in told[~told["control"]].groupby("scenario", sort=False)
        ]
    )


def happened(s: Session, turn: int) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """One round for timelines.timeline: events, when each was due, and the rows in the order of their detection, controls last."""
    one = [point for point in points(s.run, "drill") if point["round"] == turn]
    told = verdict.courses(one)
    events = verdict.timeline(one, {(point["scenario"], turn): series(s.run, point, "alerts") for point in one})
    right = {point["scenario"]: point["facts"]["right"] for point in one}
    events = events[events["to_s"] >= 0]  # what was pending while Prometheus began anew is over, and of no fault
    events = events.assign(
        row=events["scenario"], right=[alert in right[name] for alert, name in zip(events["alert"], events["scenario"], strict=True)]
    )
    due = told[told["due_s"].notna()].rename(columns={"scenario": "row"})[["row", "due_s", "slack_s"]].rename(columns={"due_s": "at_s"})
    rows = told.sort_values(["control", "at_s"])["scenario"].tolist()
    return events, due, rows


def forecasts(told: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Every round's right alert beside its forecast, for the same figure."""
    faults = told[~told["control"] & told["detected"]].sort_values("due_s")
    events = pd.DataFrame(
        {
            "row": faults["scenario"],
            "kind": "firing",
            "alert": faults["came"],
            "right": True,
            "from_s": faults["at_s"],
            "to_s": faults["at_s"],
        }
    )
    one = faults.drop_duplicates("scenario")
    due = pd.DataFrame({"row": one["scenario"], "at_s": one["due_s"], "slack_s": one["slack_s"]})
    return events, due, due["row"].tolist()


def spread(told: pd.DataFrame) -> dict[str, Any]:
    """How far measured times lie from the forecast, s: the median and the largest miss, and whose it is."""
    off = (told["at_s"] - told["due_s"])[~told["control"]].dropna()
    if not len(off):
        return dict.fromkeys(("median", "worst", "whose"))
    worst = told.assign(off=off).loc[off.index].sort_values("off", key=abs).iloc[-1]
    return {"median": float(off.median()), "worst": worst["off"], "whose": worst["scenario"]}


def alarms(s: Session) -> pd.DataFrame:
    """scenario, alert, level: FIRED, or FIRST where it is the right one and came first; in any round."""
    rows = []
    for point in points(s.run, "drill"):
        told = verdict.courses([point]).iloc[0]
        for alert in {n["alert"] for n in point["facts"]["notices"] if n["status"] == "firing"}:
            first = bool(told["right_first"]) and alert == told["came"]
            rows.append({"scenario": point["scenario"], "alert": alert, "level": FIRST if first else FIRED})
    return pd.DataFrame(rows, columns=["scenario", "alert", "level"]).sort_values(["scenario", "alert"], ignore_index=True)


def moves(s: Session) -> pd.DataFrame:
    """scenario, control, dashboard, panel (its title), level: 1 where it moved in half of the rounds or more, else 0. Only courses."""
    titles = {(board["uid"], one["id"]): (board["title"], one["title"]) for board in dashboards.ALL for one in panels(board)}
    drilled = [(point, _undisputed(series(s.run, point, "panels"), point["facts"]["asked_s"])) for point in points(s.run, "drill")]
    if not drilled:
        return pd.DataFrame(columns=["scenario", "control", "dashboard", "panel", "moved", "board", "title", "level"])
    stray = verdict.strays([shown for _, shown in drilled])
    whole = pd.concat(
        [
            verdict.moved(shown, stray, cleared_s=point["facts"]["cleared_s"]).assign(
                scenario=point["scenario"], control=point["facts"]["control"]
            )
            for point, shown in drilled
        ],
        ignore_index=True,
    )
    share = whole.groupby(["scenario", "control", "dashboard", "panel"], sort=False)["moved"].mean().reset_index()
    named = [titles[board, panel] for board, panel in zip(share["dashboard"], share["panel"], strict=True)]
    return share.assign(
        board=[board for board, _ in named], title=[title for _, title in named], level=(share["moved"] >= 0.5).astype(float)
    )


def _undisputed(shown: pd.DataFrame, asked_s: float) -> pd.DataFrame:
    """Without the time in which the fault was being done (a deploy takes seconds): that is neither calm nor fault."""
    return shown[~shown["t_s"].between(asked_s, 0)]


def movement(moved: pd.DataFrame) -> dict[str, Any]:
    """How many panels moved in a fault, of how many that had data and could; how many are constants, and had no data on this machine."""
    if not len(moved):
        return {"moved": 0, "panels": 0, "constants": 0, "empty": 0}
    each = (moved["level"] * ~moved["control"]).groupby([moved["dashboard"], moved["panel"]]).max()
    why = [row["why"] for row in still(moved).to_dict("records")]
    constants, empty = sum(one.startswith(CONSTANTLY) for one in why), sum(one.startswith(NO_DATA) for one in why)
    return {"moved": int((each > 0).sum()), "panels": len(each) - constants, "constants": constants, "empty": empty}


def still(moved: pd.DataFrame) -> pd.DataFrame:
    """Panels that no fault moved, the constants and those without data among them: dashboard, panel, why that may be."""
    hit = moved[(moved["level"] > 0) & ~moved["control"]].groupby(["dashboard", "panel"]).size()
    seen = set(moved[["dashboard", "panel"]].itertuples(index=False, name=None))
    rows = []
    for board in dashboards.ALL:
        for one in panels(board):
            if (board["uid"], one["id"]) in hit.index:
                continue
            if (board["uid"], one["id"]) not in seen:
                why = NO_DATA + one["fieldConfig"]["defaults"].get("noValue", "nothing was told")
            elif constantly := CONSTANT.get((board["uid"], one["title"])):
                why = CONSTANTLY + constantly
            else:
                why = "did not move"
            rows.append({"dashboard": board["title"], "panel": one["title"], "why": why})
    return pd.DataFrame(rows, columns=["dashboard", "panel", "why"])


def everywhere(s: Session) -> pd.DataFrame:
    """A row a recorded machine: the run that speaks first, then those beside it, each judged for itself."""
    return pd.DataFrame([_machine(one) for one in s.each()])


def _machine(s: Session) -> dict[str, Any]:
    head, moved = headline(courses(s)), movement(moves(s))

    def share(name: str) -> str | None:
        return f"{head[f'{name}_hits']} of {head[f'{name}_n']}" if head.get(f"{name}_n") else None

    return {
        "machine": s.run.machine_id, "run": s.run.run_id, "whole rounds": head["rounds"], "kinds of faults": head["kinds"],
        "detected": share("detected"), "right one first": share("first"), "when due": share("due"),
        "controls with an alarm": f"{head['false_alarms']} of {head['controls']}" if head["faults"] else None,
        "panels that moved": f"{moved['moved']} of {moved['panels']}",
    }  # fmt: skip


def scraped(s: Session) -> dict[str, Any]:
    """What a scrape adds to the latency of a request, paired by side: µs at p50 and p99, and a scrape's own share."""
    told: dict[str, Any] = dict.fromkeys(
        ("p50_us", "lo_us", "hi_us", "plain_us", "p99_us", "p99_lo_us", "p99_hi_us", "per_s", "production_us")
    )
    for point in points(s.run, "scraped"):
        sides = {name: [np.asarray(one, float) for one in point["samples"][name]] for name in ("plain", "scraped")}
        for q, name in ((0.5, ""), (0.99, "p99_")):
            each = [float(np.quantile(b, q) - np.quantile(a, q)) for a, b in zip(sides["plain"], sides["scraped"], strict=True)]
            if (found := stats.mean(each)) is not None:
                told |= {
                    f"{name}us" if name else "p50_us": found.value,
                    f"{name}lo_us" if name else "lo_us": found.lo,
                    f"{name}hi_us" if name else "hi_us": found.hi,
                }
        told |= {"plain_us": float(np.median(np.concatenate(sides["plain"]))), "per_s": point["facts"]["scrapes_per_s"]}
        mean = [float(b.mean() - a.mean()) for a, b in zip(sides["plain"], sides["scraped"], strict=True)]
        told["production_us"] = float(np.mean(mean)) / point["facts"]["scrapes_per_s"] / 15  # a scrape each 15 s
    return told


def watchers(s: Session) -> pd.DataFrame:
    """What each process of the stack takes at production's pace: CPU as a share of a core, memory."""
    return pd.DataFrame(
        [
            {
                "process": name,
                "watches": name in point["facts"]["watchers"],
                "CPU, % of a core": 100 * used["cpu_s"] / point["facts"]["wall_s"],
                "memory, MB": used["rss_bytes"] / 1e6,
            }
            for point in points(s.run, "watchers")
            for name, used in point["facts"]["used"].items()
        ]
    )


def watching(used: pd.DataFrame) -> dict[str, Any]:
    """All that watches beside all that works."""
    if not len(used):
        return dict.fromkeys(("cpu", "share", "memory_mb"))
    ours = used[used["watches"]]
    return {
        "cpu": ours["CPU, % of a core"].sum() / 100,
        "share": ours["CPU, % of a core"].sum() / used["CPU, % of a core"].sum(),
        "memory_mb": ours["memory, MB"].sum(),
    }
