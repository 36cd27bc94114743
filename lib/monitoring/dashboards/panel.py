"""The three forms of panel that our dashboards are made of, typed by grafana-foundation-sdk: a number, a course, a band of states.

Each says what it shows and when to worry, in which unit, where its thresholds lie, and which entry of the runbook belongs to it: that is
why these are asked for here and not left to each dashboard. Refuses a panel without a query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as models

SOURCE = "${datasource}"
GREEN, YELLOW, ORANGE, RED = "green", "yellow", "orange", "red"
Built = Builder[models.Panel]


@dataclass(frozen=True, slots=True)
class Ask:
    """A query and how its series are called; `{{label}}` stands for a label's value."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Step:
    """From `value` on, in the panel's unit, it is `colour`."""

    value: float
    colour: str


def number(title: str, unit: str, says: str, *asks: Ask, width: int, height: int = 4, steps: Sequence[Step] = (),
           runbook: Sequence[str] = (), decimals: int | None = None, names: bool = False, empty: str | None = None) -> Built:  # fmt: skip
    """The last value of each series, coloured by its threshold. `names`: the series' name instead. `empty`: why there may be none."""
    panel = (
        stat.Panel().title(title).description(says).unit(unit).height(height).span(width).thresholds(_thresholds(steps))
        .links(_links(runbook)).datasource(models.DataSourceRef(type_val="prometheus", uid=SOURCE))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False))
        .graph_mode(shapes.BigValueGraphMode.NONE).color_mode(shapes.BigValueColorMode.VALUE).justify_mode(shapes.BigValueJustifyMode.CENTER)
        .text_mode(shapes.BigValueTextMode.NAME if names else shapes.BigValueTextMode.AUTO)
        .color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.THRESHOLDS)).targets(_targets(asks))
    )  # fmt: skip
    panel = panel.no_value(empty) if empty else panel
    return panel if decimals is None else panel.decimals(decimals)


def course(title: str, unit: str, says: str, *asks: Ask, width: int = 8, height: int = 7, steps: Sequence[Step] = (), stacked: bool = False,
           log: bool = False, least: float | None = 0, most: float | None = None, runbook: Sequence[str] = (),
           empty: str | None = None) -> Built:  # fmt: skip
    """Series over time, thresholds as dashed lines. `least`, `most`: where the axis ends. `empty`: why there may be none."""
    panel = (
        timeseries.Panel().title(title).description(says).unit(unit).height(height).span(width).links(_links(runbook))
        .datasource(models.DataSourceRef(type_val="prometheus", uid=SOURCE)).line_width(2).fill_opacity(30 if stacked else 0)
        .show_points(shapes.VisibilityMode.NEVER).thresholds(_thresholds(steps))
        .thresholds_style(common.GraphThresholdsStyleConfig().mode(
            shapes.GraphTresholdsStyleMode.DASHED if steps else shapes.GraphTresholdsStyleMode.OFF))
        .color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.PALETTE_CLASSIC))
        .legend(common.VizLegendOptions().display_mode(shapes.LegendDisplayMode.LIST).placement(shapes.LegendPlacement.BOTTOM).show_legend(True))
        .tooltip(common.VizTooltipOptions().mode(shapes.TooltipDisplayMode.MULTI).sort(shapes.SortOrder.DESCENDING)).targets(_targets(asks))
    )  # fmt: skip
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(shapes.StackingMode.NORMAL).group("A"))
    if log:
        panel = panel.scale_distribution(common.ScaleDistributionConfig().type(shapes.ScaleDistribution.LOG).log(10))
    elif least is not None:
        panel = panel.min(least)
    panel = panel if most is None else panel.max(most)
    return panel.no_value(empty) if empty else panel


def states(title: str, says: str, *asks: Ask, width: int = 24, height: int = 7, colours: Sequence[tuple[str, str, str]], empty: str,
           runbook: Sequence[str] = ()) -> Built:  # fmt: skip
    """A row for each series, a bar while it has a value. `colours`: (value, its name, its colour). `empty`: why there may be none."""
    mapped = {value: models.ValueMappingResult(text=name, color=colour, index=nth) for nth, (value, name, colour) in enumerate(colours)}
    return (
        statetimeline.Panel().title(title).description(says).unit("none").height(height).span(width).links(_links(runbook)).no_value(empty)
        .datasource(models.DataSourceRef(type_val="prometheus", uid=SOURCE)).thresholds(_thresholds(()))
        .mappings([models.ValueMap(options=mapped)]).merge_values(True).show_value(shapes.VisibilityMode.NEVER)
        .row_height(0.8).fill_opacity(70).line_width(0)
        .color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))
        .legend(common.VizLegendOptions().display_mode(shapes.LegendDisplayMode.LIST).placement(shapes.LegendPlacement.BOTTOM).show_legend(True))
        .targets(_targets(asks))
    )  # fmt: skip


def _targets(asks: Sequence[Ask]) -> list[Builder[Dataquery]]:
    if not asks:
        raise ValueError("a panel asks something: give it a query")
    return [_query(ask).ref_id(chr(ord("A") + nth)) for nth, ask in enumerate(asks)]


def _query(ask: Ask) -> prometheus.Dataquery:
    """What is summed over the whole of the shown time is asked once, at its end."""
    query = prometheus.Dataquery().expr(ask.expr).legend_format(ask.legend)
    query = query.datasource(models.DataSourceRef(type_val="prometheus", uid=SOURCE))
    return query.instant() if "$__range" in ask.expr else query.range()


def _thresholds(steps: Sequence[Step]) -> dashboard.ThresholdsConfig:
    """Below the first step all is well; where more is better (the last step is green), nothing is."""
    first = RED if steps and steps[-1].colour == GREEN else GREEN
    told = [models.Threshold(value=None, color=first), *(models.Threshold(value=step.value, color=step.colour) for step in steps)]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(told)


def _links(alerts: Sequence[str]) -> list[Builder[models.DashboardLink]]:
    return [dashboard.DashboardLink(f"Runbook: {alert}").type(models.DashboardLinkType.LINK).url(f"${{runbook}}#{alert.lower()}")
            .target_blank(True) for alert in alerts]  # fmt: skip
