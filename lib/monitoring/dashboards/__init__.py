"""Five Grafana dashboards as code, and the JSON that is committed below monitoring/grafana.

    python -m lib.monitoring.dashboards --write
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lib import home
from lib.monitoring.dashboards.cost import cost
from lib.monitoring.dashboards.llm import llm
from lib.monitoring.dashboards.machine import machine
from lib.monitoring.dashboards.objectives import objectives
from lib.monitoring.dashboards.services import services

ALL: tuple[dict[str, Any], ...] = (services(), llm(), machine(), objectives(), cost())  # in reading order
FOLDER = home.ROOT / "monitoring" / "grafana" / "dashboards"


def files() -> dict[str, str]:
    """File name → the JSON that goes to Grafana."""
    return {f"{one['uid']}.json": json.dumps(one, indent=1, ensure_ascii=False, sort_keys=True) + "\n" for one in ALL}


def write(folder: Path = FOLDER) -> list[Path]:
    """Write the JSON of each; where."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in files()]
