"""The dashboards as code: what is committed is what the code makes, Grafana's own types read it back, and every query can be asked."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import pandas as pd
import promql_parser
import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from lib.home import ROOT
from lib.monitoring import dashboards, lint
from lib.monitoring.dashboards import board as shared
from lib.monitoring.dashboards import query
from lib.monitoring.timing import DRILL, PRODUCTION, Timing

boards = pytest.mark.parametrize("board", dashboards.ALL, ids=lambda board: board["uid"])


def test_what_is_committed_is_what_the_code_makes() -> None:
    there = {path.name: path.read_text(encoding="utf-8") for path in dashboards.FOLDER.glob("*.json")}
    assert there == dashboards.files(), "run python -m lib.monitoring.dashboards --write"


@boards
def test_it_survives_grafana_s_own_types(board: dict[str, Any]) -> None:
    register_default_plugins()
    assert json.loads(json.dumps(Dashboard.from_json(board), cls=JSONEncoder)) == board


@boards
def test_panels_fill_the_grid_without_overlap(board: dict[str, Any]) -> None:
    boxes = [one["gridPos"] for one in board["panels"]]
    assert all(at["x"] >= 0 and at["x"] + at["w"] <= 24 and at["h"] > 0 for at in boxes)
    for a, b in combinations(boxes, 2):
        apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"] or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert apart, f"{a} lies over {b}"
    assert len({one["id"] for one in board["panels"]}) == len(boxes)


@boards
def test_links_lead_to_entries_of_the_runbook_and_to_the_other_dashboards(board: dict[str, Any]) -> None:
    text = (ROOT / shared.RUNBOOK).read_text(encoding="utf-8")
    headings = {line.lstrip("# ").strip().lower() for line in text.splitlines() if line.startswith("#")}
    (runbook,) = [one["query"] for one in board["templating"]["list"] if one["name"] == "runbook"]
    assert runbook == shared.RUNBOOK
    for one in query.panels(board):
        for link in one["links"]:
            where, _, entry = link["url"].partition("#")
            assert where == "${runbook}" and entry in headings, f"{one['title']}: {link['url']}"
    (link,) = board["links"]
    assert link["type"] == "dashboards" and link["tags"] == board["tags"] == [shared.TAG]


def test_alerts_lead_to_dashboards_that_exist() -> None:
    linked = {rule["annotations"]["dashboard"] for group in lint.rule_groups() for rule in group["rules"] if "alert" in rule}
    assert linked and linked <= {f"/d/{board['uid']}" for board in dashboards.ALL}


@boards
@pytest.mark.parametrize("timing", [PRODUCTION, DRILL], ids=["production", "drill"])
def test_every_query_parses_at_every_speed(board: dict[str, Any], timing: Timing) -> None:
    found = query.queries(board, timing=timing, step_s=1)
    assert len(found) >= len(list(query.panels(board)))
    for one in found:
        promql_parser.parse(one.expr)
        assert "$" not in one.expr and one.legend
        assert one.instant == ("increase" in one.expr or "6h]" in one.expr or "144s]" in one.expr)


def test_grafana_s_windows() -> None:
    asked = {one.title: one.expr for one in query.queries(dashboards.ALL[0], timing=PRODUCTION, step_s=120)}
    assert asked["Requests by service"] == 'sum by (service) (rate(gateway_requests_total{service=~".*"}[135s]))'
    asked = {one.title: one.expr for one in query.queries(dashboards.ALL[0], timing=DRILL, step_s=1)}
    assert "[2s]" in asked["Requests by service"]  # four scrapes
    asked = {one.title: one.expr for one in query.queries(dashboards.ALL[-1], timing=PRODUCTION, step_s=60, range_s=7200)}
    assert "[2h]" in asked["Spent"]


def test_a_variable_that_nobody_defined_is_refused() -> None:
    assert query.filled("a{x=~\"${y:regex}\"} + $z", {"y": "1", "z": "2"}) == 'a{x=~"1"} + 2'
    with pytest.raises(ValueError, match="no variable modle"):
        query.filled("a{b=~'$modle'}", {"model": ".*"})


def test_series_are_named_by_their_legend() -> None:
    one = query.Query("d", 1, "t", "A", "e", "{{service}} {{ outcome }}", False, None)
    assert one.named({"service": "fraud", "outcome": "ok"}) == "fraud ok"
    assert one.named({"service": "fraud"}) == "fraud"
    found = pd.DataFrame({"series": ["x", "x"], "labels": [{"service": "llm"}] * 2, "t_s": [1.0, 2.0], "value": [3.0, 4.0]})
    assert query.answer(one, found).values.tolist() == [["d", 1, "A", "llm", 1.0, 3.0], ["d", 1, "A", "llm", 2.0, 4.0]]
    assert list(query.answer(one, found[:0]).columns) == query.COLUMNS


def test_a_panel_that_asks_another_source_is_refused() -> None:
    board = json.loads(json.dumps(dashboards.ALL[0]))
    board["panels"][0]["targets"][0]["datasource"]["type"] = "loki"
    with pytest.raises(ValueError, match="'Requests' asks 'loki'"):
        query.queries(board, timing=PRODUCTION, step_s=60)
