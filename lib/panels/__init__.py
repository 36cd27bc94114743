"""Grafana's dashboards drawn without a Grafana: the same JSON, the same queries, the same grid, by plotly."""

from lib.monitoring.dashboards.query import Query, answer, queries
from lib.panels.draw import Band, cells, draw, panel
from lib.panels.page import page

__all__ = ["Band", "Query", "answer", "cells", "draw", "page", "panel", "queries"]
