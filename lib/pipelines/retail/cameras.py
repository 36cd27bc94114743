"""The fleet under load, in this process: streams added one at a time, batches across cameras, and the network's grid without cameras.

Everything is counted from when a frame was due, so that waiting for a processor is part of its age. Refuses to call a count of streams good
by its rate alone; see density.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from itertools import pairwise
from threading import Lock
from time import perf_counter, sleep

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lib.measured import Broke, Found, Skipped, keep, points, series
from lib.pipelines.retail import density, ladder, variants, ways
from lib.pipelines.retail.density import SOURCE_FPS, WINDOW, Window
from lib.pipelines.retail.fleet import Fleet
from lib.pipelines.retail.pipeline import Eye
from lib.pipelines.retail.plan import SMALL, Plan, Setup
from lib.pipelines.retail.sample import STAGES, Sample
from lib.pipelines.retail.session import Session, Shop
from lib.pipelines.retail.watch import Seen
from lib.vision.clip import open_clip

READY_S = 30.0
SETTLE_S = 1.0  # after a stream was added


class Ear:
    """Hears of every frame that is through. Called on the follower's thread, asked on ours."""

    def __init__(self) -> None:
        self._lock, self._heard = Lock(), list[Sample]()

    def __call__(self, camera: str, seen: Seen) -> None:
        with self._lock:
            self._heard.append(seen.sample)

    def told(self) -> list[Sample]:
        """What came since this was last asked."""
        with self._lock:
            heard, self._heard = self._heard, []
        return heard


@contextmanager
def fleet(shop: Shop, setup: Setup) -> Iterator[tuple[Fleet, Ear, Callable[[str], None]]]:
    """A fleet without cameras, what it tells, and how a camera is added to it. Raises Broke when its detector dies."""
    variant, ear = ladder.named(setup.variant), Ear()
    clip, floor = ways.watched(shop, setup.view)
    sizes = [size for size in (1, 2, 4, 8, 16) if size <= setup.batch]
    detectors = [variant.detector(shop, batch=size, streams=setup.lanes) for size in sizes]
    running = Fleet(detectors, threads=setup.lanes, on_seen=ear, most_cameras=64)

    def add(name: str) -> None:
        eye = Eye(floor, net_hw=variant.net_hw, fps=SOURCE_FPS, gated=setup.gated)
        running.start(name, partial(open_clip, clip), eye, fps=SOURCE_FPS)

    try:
        until_s = perf_counter() + READY_S
        while not running.ready and perf_counter() < until_s:
            sleep(0.01)
        yield running, ear, add
        if not running.ready:
            raise Broke(running.fault or f"the fleet was not ready within {READY_S:.0f} s")
    finally:
        running.close()


# --- stream density ---


def densities(s: Session, plan: Plan) -> None:
    """Each set-up, until it does not keep up."""
    if s.model is None:
        return
    for setup in plan.setups:
        keep(s.run, {"what": "density", "setup": setup.name}, partial(_density, s, s.model, setup, plan))


def _density(s: Session, shop: Shop, setup: Setup, plan: Plan) -> Found:
    said = counted(s, setup.way)
    frames: list[pd.DataFrame] = []
    with fleet(shop, setup) as (running, ear, add):

        def window(streams: int) -> Window:
            if len(running.accounts()) < streams:
                add(f"cam-{streams}")
                sleep(SETTLE_S)
            ear.told()
            before = {one.name: one for one in running.accounts()}
            began_s = perf_counter()
            sleep(WINDOW * plan.sample_s)
            wall_s, after, heard = perf_counter() - began_s, {one.name: one for one in running.accounts()}, ear.told()
            lost = sum(after[name].dropped + after[name].failed - before[name].dropped - before[name].failed for name in after)
            rates = tuple(sum(one.camera == name for one in heard) / wall_s for name in after)
            ages_s = [one.age_s for one in heard]
            age_s = float(np.quantile(ages_s, 0.99, method="inverted_cdf")) if ages_s else None
            frames.append(rows(heard).assign(streams=np.int8(streams), window=np.int16(len(frames))))
            return Window(streams, rates, age_s, len(heard) + lost, lost, wrong(heard, said))

        windows = [asdict(seen) for seen in density.climb(window, most=plan.most_streams)]
    facts = {"variant": setup.variant, "batch": setup.batch, "lanes": setup.lanes, "gated": setup.gated,
             "sample_s": plan.sample_s, "most": plan.most_streams,
             "windows": windows}  # fmt: skip
    return Found({}, facts, {}, {"frames": pd.concat(frames, ignore_index=True)})


def counted(s: Session, way: str) -> NDArray[np.int64]:
    """People in each frame of the clip, by a way that looks at every frame. Raises Skipped where the run has no such walk."""
    for point in points(s.run, "way"):
        if point["name"] == way and point["round"] == 0:
            return series(s.run, point, "frames")["people"].to_numpy(np.int64)
    raise Skipped(f"nothing to hold the counts against: the way {way!r} was not measured")


def wrong(heard: Sequence[Sample], said: NDArray[np.int64]) -> float | None:
    """How far the counts are off from `said`, as a share of its mean, over all frames that fell due between a camera's first and last here.

    A frame that was lost is charged with the count that stood while it was: the one before it. Frames that `said` knows nothing of are
    left out: a smoke test walks the clip's beginning only.
    """
    by_camera: dict[str, list[Sample]] = defaultdict(list)
    for one in heard:
        by_camera[one.camera].append(one)
    off, slots = 0.0, 0
    for told in by_camera.values():
        told.sort(key=lambda one: one.number)
        for now, later in pairwise(told):
            ahead = now.place + later.number - now.number
            places = np.arange(now.place, ahead)
            if later.place < now.place:  # the clip began anew meanwhile
                places = np.where(places < ahead - later.place, places, places - (ahead - later.place))
            places = places[places < len(said)]
            off += float(np.abs(said[places] - now.people).sum())
            slots += len(places)
    return off / slots / float(said.mean()) if slots else None


def rows(heard: Sequence[Sample]) -> pd.DataFrame:
    """One row a frame: camera, batch, age and stages in ms."""
    stages = np.array([one.stages() for one in heard], np.float32).reshape(len(heard), len(STAGES)) * 1e3
    columns = {"camera": pd.Categorical([one.camera for one in heard]), "batch": np.array([one.batch for one in heard], np.int8),
               "age_ms": np.array([one.age_s * 1e3 for one in heard], np.float32)}  # fmt: skip
    return pd.DataFrame({**columns, **{f"{name}_ms": stages[:, place] for place, name in enumerate(STAGES)}})


# --- batches across cameras ---


def batches(s: Session, plan: Plan) -> None:
    """More cameras than the machine keeps up with, looked at in batches of at most so many: what waiting for company costs and brings."""
    if s.model is None:
        return
    for batch in plan.batches:
        setup = replace(SMALL, batch=batch)
        for streams in (4, min(12, plan.most_streams)):
            setting = {"what": "batch", "setup": setup.name, "batch": batch, "streams": streams}
            keep(s.run, setting, partial(_batch, s.model, setup, streams, plan.batches_s))


def _batch(shop: Shop, setup: Setup, streams: int, seconds: float) -> Found:
    with fleet(shop, setup) as (running, ear, add):
        for number in range(streams):
            add(f"cam-{number + 1}")
        sleep(SETTLE_S)
        ear.told()
        began_s, before = perf_counter(), sum(one.dropped for one in running.accounts())
        sleep(seconds)
        wall_s, heard, lost = perf_counter() - began_s, ear.told(), sum(one.dropped for one in running.accounts()) - before
    return Found({}, {"wall_s": wall_s, "through": len(heard), "lost": lost}, {}, {"frames": rows(heard)})


# --- the network's grid ---


def sweep(s: Session, plan: Plan) -> None:
    """Threads × inferences side by side × batch, without cameras: what the processors give at most."""
    if s.model is None:
        return
    most = ladder.processors()
    for name in plan.grid:
        for threads, workers in sorted({(1, 1), (most, 1), (most, most)}):
            for batch in plan.batches:
                setting = {"what": "sweep", "name": name, "threads": threads, "workers": workers, "batch": batch}
                keep(s.run, setting, partial(_swept, s.model, name, threads, workers, batch, plan.grid_s))


def _swept(shop: Shop, name: str, threads: int, workers: int, batch: int, seconds: float) -> Found:
    variant = ladder.named(name)
    made = variant.detector(shop, batch=batch, streams=workers, threads=threads)
    _, shown = variants.canvases(shop, variant.net_hw, last=variants.JUDGED * batch)
    canvases = np.resize(shown, (batch, *variant.net_hw, 3))

    def work(until_s: float) -> list[float]:
        taken_s: list[float] = []
        while (began_s := perf_counter()) < until_s:
            made.infer(canvases)
            taken_s.append(perf_counter() - began_s)
        return taken_s

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, [perf_counter() + 0.3] * workers))
        began_s = perf_counter()
        taken = [one for each in pool.map(work, [began_s + seconds] * workers) for one in each]
        wall_s = perf_counter() - began_s
    return Found({"infer_s": taken}, {"frames_per_s": batch * len(taken) / wall_s, "wall_s": wall_s}, {})
