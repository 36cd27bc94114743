"""What the retail service says of itself to Prometheus: frames and what became of them, stages, ages, people, cameras by state.

Histograms are observed on the follower, once a frame; all else is read from the cameras' accounts when somebody asks, so a camera that is
ended leaves no series behind. Labels are cameras' names, of which there are few and short ones, stages and states.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from lib.pipelines.retail.camera import State
from lib.pipelines.retail.fleet import Fleet
from lib.pipelines.retail.sample import STAGES
from lib.pipelines.retail.watch import Seen

SECONDS = (1e-3, 2e-3, 3e-3, 5e-3, 7.5e-3, 10e-3, 15e-3, 20e-3, 30e-3, 50e-3, 75e-3, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
SHORT = (1e-4, 2.5e-4, 5e-4, *SECONDS)  # some stages are over sooner
BATCHES = (1, 2, 4, 8, 16)


@dataclass(frozen=True, slots=True)
class Model:
    """What looks, for whoever reads a number of it."""

    version: str
    precision: str
    licence: str


class Instruments:
    """`seen` is for the fleet to call; `text` is what Prometheus reads."""

    def __init__(self, model: Model) -> None:
        self._model, self._registry = model, (kept := CollectorRegistry())
        self.pictures = Counter("retail_pictures", "Still pictures by what became of them", ["outcome"], registry=kept)
        self._detections = Counter("retail_detections", "Boxes that the detector found in cameras' frames", registry=kept)
        stage_s = Histogram("retail_stage_seconds", "Of a frame, by stage; they add up to its age", ["stage"], buckets=SHORT, registry=kept)
        self._age_s = Histogram("retail_frame_age_seconds", "From a frame's capture to its event", buckets=SECONDS, registry=kept)
        self._batch = Histogram("retail_batch_frames", "Frames inferred together, as each saw it", buckets=BATCHES, registry=kept)
        self._stages_s = [stage_s.labels(stage) for stage in STAGES]
        ProcessCollector(registry=kept)  # process_resident_memory_bytes and its like

    def seen(self, _: str, seen: Seen) -> None:
        """A frame is through."""
        for stage_s, spent_s in zip(self._stages_s, seen.sample.stages(), strict=True):
            stage_s.observe(spent_s)
        self._age_s.observe(seen.sample.age_s)
        if seen.sample.batch:
            self._batch.observe(seen.sample.batch)
        self._detections.inc(len(seen.sight.boxes))

    def of(self, fleet: Fleet) -> None:
        """Read this fleet's accounts from now on."""
        self._registry.register(_Accounts(fleet, self._model))

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self._registry)


class _Accounts(Collector):
    """The fleet as Prometheus asks for it."""

    def __init__(self, fleet: Fleet, model: Model) -> None:
        self._fleet, self._model = fleet, model

    def collect(self) -> Iterator[Metric]:
        frames = CounterMetricFamily("retail_frames", "Frames that fell due, by what became of them", labels=["camera", "outcome"])
        restarts = CounterMetricFamily("retail_camera_restarts", "How often a source was opened again", labels=["camera"])
        fps = GaugeMetricFamily("retail_camera_fps", "Frames seen a second, over the last seconds", labels=["camera"])
        people = GaugeMetricFamily("retail_people", "People in the last frame", labels=["camera"])
        cameras = GaugeMetricFamily("retail_cameras", "Cameras by state", labels=["state"])
        accounts = self._fleet.accounts()
        for account in accounts:
            became = {"seen": account.seen, "gated": account.gated, "dropped": account.dropped, "failed": account.failed}
            for outcome, n in became.items():
                frames.add_metric([account.name, outcome], n)
            restarts.add_metric([account.name], account.restarts)
            fps.add_metric([account.name], account.fps)
            if account.people is not None:
                people.add_metric([account.name], account.people)
        states = Tally(account.state for account in accounts)
        for state in State:
            cameras.add_metric([state.value], states[state])
        yield from (frames, restarts, fps, people, cameras)
        hub = self._fleet.hub
        yield GaugeMetricFamily("retail_subscribers", "Who listens to events", value=len(hub))
        yield CounterMetricFamily("retail_events_lost", "Events that slow subscribers did not fetch in time", value=hub.lost)
        yield GaugeMetricFamily("retail_ready", "1 where the service would take a camera", value=float(self._fleet.ready))
        told = {"version": self._model.version, "precision": self._model.precision, "licence": self._model.licence}
        yield InfoMetricFamily("retail_model", "What looks", value=told)
