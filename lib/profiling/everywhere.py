"""The same notebook on every machine that was recorded: a row each, judged for itself, the run that speaks first. Pure.

No number of one machine is formed with another's; a run that is older than today's method says so.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from lib.profiling import batch_views, findings, ranking, views
from lib.profiling.session import Session, earlier


def layers(s: Session) -> pd.DataFrame:
    """Of notebook 30: where ResNet-50's time goes, which accounts close, how predictions came out, and what each precision brings."""
    return pd.DataFrame([_layers(one) for one in s.each()])


def batches(s: Session) -> pd.DataFrame:
    """Of notebook 31: what batches buy, whether lines foretold sizes that they did not see, and the simulation medians."""
    return pd.DataFrame([_batches(one) for one in s.each()])


def _who(s: Session) -> dict[str, Any]:
    return {"machine": s.run.machine_id, "run": s.run.run_id, "by today's method": earlier(s)["differs"] is None}


def _layers(s: Session) -> dict[str, Any]:
    closing, told = findings.accounts(views.closes(s, "resnet50")), findings.outside(views.ledgers(s, "resnet50"))
    ranked, foretold = ranking.agreement(views.ranked(s, "resnet50")), findings.foretold(views.everything_predicted(s))
    speed = findings.fastest(views.forms(s))
    return {**_who(s), "eager, ms": speed["eager_ms"],
            "arithmetic": _percent(told["arithmetic"]), "laid out anew": _percent(told["reorders"]),
            "accounts that close": _of(closing["close"], closing["n"]), "top five shared, at least": ranked["fewest"],
            "foretold within 10 %": _of(foretold["within"], foretold["n"]), "median error": _percent(foretold["median"]),
            **{f"{name}, ×": speed[f"{name}_times"] for name in findings.PRECISIONS}}  # fmt: skip


def _batches(s: Session) -> dict[str, Any]:
    gain, made = batch_views.gain(s, "resnet50"), batch_views.simulation(batch_views.served(s))
    held = {name: batch_views.held(batch_views.lines(s, name)) for name in ("resnet50", "yolov8n")}
    return {**_who(s), "a batch buys at most, ×": gain["times"], "by": gain["form"], "most pictures/s": gain["most"],
            **{f"lines within 5 %, {name}": _of(one["within"], one["n"]) for name, one in held.items()},
            "their median worst error": _percent(held["resnet50"]["median"]),
            "medians foretold within": _percent(made["median"]), "at its pace": _percent(made["paced"])}  # fmt: skip


def _of(hits: int | None, n: int | None) -> str | None:
    return None if hits is None or n is None else f"{hits} of {n}"


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{share:.1%}"
