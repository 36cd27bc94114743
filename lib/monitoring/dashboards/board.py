"""What our dashboards share: variables, links between them, alerts as annotations, and rows of panels on a grid of 24 columns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models

from lib.monitoring.dashboards.panel import SOURCE, Built

TAG = "inference"
RUNBOOK = "monitoring/runbook.md"  # where it is served is one variable of each dashboard
UID = "prometheus"  # the data source that monitoring/grafana provisions
FIRING = 'ALERTS{alertstate="firing",alertname!="Watchdog"}'


def board(uid: str, title: str, says: str, rows: Mapping[str, Sequence[Built]], *, variables: Mapping[str, str]) -> dict[str, Any]:
    """The dashboard as Grafana's JSON. `rows`: heading → panels; the first row has none. `variables`: label → the metric that has it."""
    made = (
        dashboard.Dashboard(title).uid(f"inference-{uid}").description(says).tags([TAG]).timezone("browser").refresh("30s").readonly()
        .time("now-6h", "now").tooltip(models.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
                       .current(models.VariableOption(text="Prometheus", value=UID)))
        .with_variable(dashboard.ConstantVariable("runbook").value(RUNBOOK))
        .link(dashboard.DashboardLink("Dashboards").type(models.DashboardLinkType.DASHBOARDS).tags([TAG]).keep_time(True).include_vars(True))
        .annotation(dashboard.AnnotationQuery().name("Alerts").enable(True).icon_color("red").expr(FIRING)
                    .datasource(models.DataSourceRef(type_val="prometheus", uid=SOURCE)))
    )  # fmt: skip
    for label, metric in variables.items():
        made = made.with_variable(
            dashboard.QueryVariable(label).label(label.capitalize()).query(f"label_values({metric}, {label})").multi(True).include_all(True)
            .all_value(".*").current(models.VariableOption(text="All",
            value="$__all")).refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(models.VariableSort.ALPHABETICAL_ASC).datasource(models.DataSourceRef(type_val="prometheus", uid=SOURCE)))  # fmt: skip
    number = 0
    for heading, panels in rows.items():
        if heading:
            made = made.with_row(dashboard.Row(heading).id(number := number + 1))
        for panel in panels:
            made = made.with_panel(panel.id(number := number + 1))  # type: ignore[attr-defined]
    found: dict[str, Any] = json.loads(json.dumps(made.build(), cls=JSONEncoder))
    return found
