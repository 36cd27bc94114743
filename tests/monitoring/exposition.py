"""Prometheus' text format as Prometheus reads it: prometheus_client's parser gives every counter a name that ends in _total."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

SAMPLE = re.compile(r"([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass
class Family:
    type: str
    help: str
    samples: dict[tuple[str, ...], float] = field(default_factory=dict)  # by the series' name and its labels' values
    labels: dict[str, set[str]] = field(default_factory=dict)  # without le and quantile


def families(text: str) -> dict[str, Family]:
    found: dict[str, Family] = {}
    helps: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("# HELP "):
            _, _, name, told = f"{line} ".split(" ", 3)
            helps[name] = told.strip()
        elif line.startswith("# TYPE "):
            name, kind = line.split()[2:4]
            found[name] = Family(kind, helps.get(name, ""))
        elif line and not line.startswith("#"):
            match = SAMPLE.fullmatch(line)
            assert match, f"no sample: {line}"
            family = found.get(match[1]) or found[re.sub(r"_(bucket|sum|count)$", "", match[1])]
            labels = dict(LABEL.findall(match[2] or ""))
            family.samples[(match[1], *labels.values())] = float(match[3])
            for key, value in labels.items():
                if key not in ("le", "quantile"):
                    family.labels.setdefault(key, set()).add(value)
    return found
