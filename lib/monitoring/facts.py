"""What a deployment knows and no exporter tells: which models ought to run, how their scores were distributed, what things cost.

A deploy writes them once, as a file that node_exporter's textfile collector reads; alerts on drift, versions and cost stand on them, and
are silent where a fact is not there. What is not known is left out, never 0.

    python -m lib.monitoring.facts FOLDER [--weights llama.cpp=BYTES] [--bandwidth BYTES_PER_SECOND]
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import typer
from numpy.typing import ArrayLike

from lib import box
from lib.install import Missing
from lib.monitoring.tokens import Card, card
from lib.pipelines import meters
from lib.pipelines.cost import prices
from lib.pipelines.fraud import forest, model
from lib.pipelines.fraud.instruments import PROBABILITIES
from lib.vision import yolo

FILE = "deployment.prom"


@dataclass(frozen=True, slots=True)
class Facts:
    """`versions` by service; `score_cdf` by the upper edges of `fraud_probability`; `weights_bytes` by engine: what a decode step reads."""

    versions: Mapping[str, str] = field(default_factory=dict)
    score_cdf: Mapping[str, float] = field(default_factory=dict)
    card: Card | None = None
    model: str = "smollm2-135m"  # what the gateway calls what the card prices
    machine_usd_per_hour: float | None = None
    weights_bytes: Mapping[str, float] = field(default_factory=dict)
    bandwidth_bytes_per_s: float | None = None


def cdf(probabilities: ArrayLike, edges: Sequence[float] = PROBABILITIES) -> dict[str, float]:
    """The share of them at or below each edge, written as the service writes its edges, and all at +Inf. Raises ValueError for none."""
    scores = np.sort(np.asarray(probabilities, float))
    if not len(scores) or np.isnan(scores).any():
        raise ValueError(f"{len(scores)} scores, {np.isnan(scores).sum()} of them NaN, have no distribution")
    below = np.searchsorted(scores, edges, side="right") / len(scores)
    return {f"{edge:g}": float(share) for edge, share in zip(edges, below, strict=True)} | {"+Inf": 1.0}


def judged(known: model.Model) -> dict[str, float]:
    """How the probabilities of the judged part of the stream are distributed. A second."""
    rows = known.rows()
    return cdf(known.probabilities(forest.Native(known, threads=2).margins(np.asarray(rows[int(len(rows) * model.CALIBRATED):]))))


def machine_usd_per_hour() -> float:
    """For the processors that this process is granted and the machine's memory; a GPU is not in it."""
    return box.granted() * prices.priced(prices.VCPU).usd + psutil.virtual_memory().total / 2**30 * prices.priced(prices.MEMORY).usd


def gather(*, weights_bytes: Mapping[str, float] | None = None, bandwidth_bytes_per_s: float | None = None,
           retail: str = yolo.OPENVINO_INT8, name: str = "smollm2-135m") -> Facts:
    """What this machine's deployment is: a model that is not built here is not part of it. Two seconds."""
    versions, scores = dict[str, str](), dict[str, float]()
    if not isinstance(known := model.ready(), Missing):
        versions["fraud"], scores = known.version, judged(known)
    with contextlib.suppress(yolo.NotReady):
        versions["retail"] = yolo.load().version_of(retail)
    return Facts(versions, scores, card(), name, machine_usd_per_hour(), weights_bytes or {}, bandwidth_bytes_per_s)


def text(facts: Facts) -> bytes:
    """The facts in Prometheus' text format."""
    cost = {(facts.model, kind): usd for kind, usd in facts.card.usd.items()} if facts.card else {}
    told: list[tuple[str, str, meters.Labels, Mapping[Any, float | None]]] = [
        ("deployment_model_info", "1, labelled with the version that ought to run", ("service", "version"),
         dict.fromkeys(facts.versions.items(), 1.0)),
        ("deployment_score_cdf", "Share of fraud_probability at or below le when the model was judged", ("le",),
         {(le,): share for le, share in facts.score_cdf.items()}),
        ("token_price_usd", "USD a token", ("model", "type"), cost),
        ("machine_price_usd_per_hour", "USD an hour for what this machine has", (), {(): facts.machine_usd_per_hour}),
        ("deployment_weights_bytes", "What a decode step reads of the weights", ("engine",),
         {(engine,): n for engine, n in facts.weights_bytes.items()}),
        ("machine_bandwidth_bytes_per_second", "Memory bandwidth, measured", (), {(): facts.bandwidth_bytes_per_s}),
    ]
    return meters.text([_gauge(name, help, labels, known) for name, help, labels, values in told
                        if (known := {key: value for key, value in values.items() if value is not None})])


def write(folder: Path, facts: Facts) -> Path:
    """Put them where node_exporter looks, whole or not at all: it may read at any moment."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / FILE
    scratch = target.with_suffix(f".{os.getpid()}")  # of another ending than the collector reads
    scratch.write_bytes(text(facts))
    scratch.chmod(0o644)  # node_exporter may be another user
    scratch.replace(target)
    return target


def _gauge(name: str, help: str, labels: meters.Labels, values: Mapping[meters.Labels, float]) -> meters.Gauge:
    gauge = meters.Gauge(name, help, labels, list(values))
    for key, value in values.items():
        gauge.child(*key).set(value)
    return gauge


def main(
    folder: Annotated[Path, typer.Argument(help="node_exporter's --collector.textfile.directory.")],
    weights: Annotated[list[str], typer.Option(help="ENGINE=BYTES; may be given again.", show_default=False)] = [],  # noqa: B006
    bandwidth: Annotated[float | None, typer.Option(help="Of memory, in bytes a second, measured.", show_default=False)] = None,
) -> None:
    """Write this deployment's facts for node_exporter."""
    try:
        read = {engine: float(n) for engine, _, n in (told.partition("=") for told in weights)}
    except ValueError:
        sys.exit(f"facts: --weights {' '.join(weights)}: say ENGINE=BYTES")
    print(write(folder, gather(weights_bytes=read, bandwidth_bytes_per_s=bandwidth)))


if __name__ == "__main__":
    typer.run(main)
