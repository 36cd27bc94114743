"""Grafana's dashboards drawn without a Grafana: the same JSON, the same queries, the same grid, by plotly."""

from lib.monitoring.dashboards.query import Query, answer, queries
from lib.panels.draw import Band, cells, draw, panel

__all__ = ["Band", "Query", "answer", "cells", "draw", "panel", "queries"]
