"""The pipeline that is shipped with the data, as most would deploy it, and its forest elsewhere: the first steps of the ladder.

It was made with a scikit-learn of its day and runs only there: in an isolated environment and in a process of its own (shipped_worker.py),
where its time is taken. Only speed is compared: it was fitted on a random part of all days, so how good it is cannot be told.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Client, Connection
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lib import fetch, home, install
from lib.measured import Found, Skipped
from lib.pipelines.fraud import data, ladder, scenarios, trees
from lib.process import Died, guarded, last_lines

if TYPE_CHECKING:
    from onnx import ModelProto

CHANGED = {
    "shipped: pandas, scikit-learn": "nothing: values, a frame, the pipeline's predict_proba",
    "same forest, NumPy in": "the amount scaled by hand, the forest asked for an array: no frame, no pipeline",
    "same forest, ONNX Runtime": "the same trees as an ONNX graph: no scikit-learn",
}
STEPS = tuple(CHANGED)
WAYS: dict[str, Way] = {STEPS[0]: "pandas", STEPS[1]: "numpy"}
COLUMNS = ("V14", "V8", "V13", "V7", "Amount", "V19", "V23", "V6", "V26", "V25", "V28")
AMOUNT = COLUMNS.index("Amount")
BATCH = 1024
COLD, COLD_SLOW = 300, 30  # rows after a sweep of the caches; where one takes milliseconds, few tell enough
WORKER = Path(__file__).with_name("shipped_worker.py")

Way = Literal["pandas", "numpy"]
Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Worker:
    """The process that has the pipeline. One caller at a time; raises Died with its last words when it has ended."""

    pipe: Connection
    guard: subprocess.Popen[bytes]
    log: Path

    def score(self, rows: Values, *, way: Way = "pandas") -> Values:
        """Probabilities (n,) of values (n, 11)."""
        return np.frombuffer(self._ask({"do": "score", "way": way}, rows))

    def timed(self, rows: Values, *, way: Way, singles: int, cold: int, batch_rows: int, budget_s: float) -> dict[str, list[float]]:
        """ns of `singles` rows one by one ("warm") and of `cold` ones after a sweep of the caches, seconds of batches ("batch_s")."""
        how = {"singles": singles, "cold": cold, "batch_rows": batch_rows, "budget_s": budget_s}
        told: dict[str, list[float]] = json.loads(self._ask({"do": "time", "way": way, "how": how}, rows))
        return told

    def forest(self) -> dict[str, NDArray[Any]]:
        """Arrays of the forest (see shipped_worker.arrays)."""
        with np.load(io.BytesIO(self._ask({"do": "arrays"}))) as kept:
            return dict(kept)

    def _ask(self, what: dict[str, Any], rows: Values | None = None) -> bytes:
        try:
            self.pipe.send_bytes(json.dumps(what if rows is None else {**what, "rows": len(rows)}).encode())
            if rows is not None:
                self.pipe.send_bytes(np.ascontiguousarray(rows, np.float64).tobytes())
            return self.pipe.recv_bytes()
        except (EOFError, ConnectionError) as error:
            self.guard.wait()  # until it has said why
            raise Died(f"the shipped pipeline's process has ended: {last_lines(self.log)}") from error


@contextlib.contextmanager
def worker() -> Iterator[Worker]:
    """The shipped pipeline, loaded (4 s), until the block is left. Raises Skipped without its environment, Died if it does not come up."""
    if isinstance(found := install.find("shipped"), install.Missing):
        raise Skipped(found.reason)
    try:
        wheel = fetch.fetch(data.SOURCE)
    except fetch.Refused as refused:
        raise Skipped(str(refused)) from refused
    # The package writes where it lies, so it lies on a real disk; /tmp may be memory, but a socket's path must be short.
    with (tempfile.TemporaryDirectory(prefix="shipped-") as scratch,
          tempfile.TemporaryDirectory(prefix=".shipped-", dir=home.cache()) as place):
        socket, log = Path(scratch) / "socket", Path(scratch) / "log"
        argv = (str(found.tool("python")), "-I", str(WORKER), str(wheel), fetch.sources()[data.SOURCE].sha256, place, str(socket))
        with guarded(argv, {}, log, 2) as guard, _connected(socket, guard, log) as pipe:
            yield Worker(pipe, guard, log)


def _connected(socket: Path, guard: subprocess.Popen[bytes], log: Path) -> Connection:
    while guard.poll() is None:
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):  # it does not listen yet
            return Client(str(socket))
        sleep(0.02)
    raise Died(f"the shipped pipeline did not come up: {last_lines(log)}")


def measured(name: str, *, rows: int, budget_s: float) -> Found:
    """Step `name` of STEPS: `rows` single transactions warm, some cold, batches for `budget_s`; for ONNX also how true it is.

    Raises Skipped without its environment, Died.
    """
    facts: dict[str, Any] = {"batch_rows": BATCH, "changed": CHANGED[name]}
    with worker() as shipped:
        sample = sampled(max(rows, BATCH))
        if name in WAYS:
            told = shipped.timed(sample, way=WAYS[name], singles=rows, cold=min(rows, COLD_SLOW), batch_rows=BATCH, budget_s=budget_s)
            return _found(told["warm"], told["cold"], told["batch_s"], facts, {})
        everything = values(data.ledger())
        engine, theirs = Onnx(shipped.forest()), shipped.score(everything)
    ours = engine.score(everything)
    flips = int(np.count_nonzero((ours > 0.5) != (theirs > 0.5)))
    facts["parity"] = {"rows": len(ours), "max_probability_difference": float(np.abs(ours - theirs).max()), "flips": flips}
    return _found(ladder.singles(engine.score, sample[:rows]), ladder.cold(engine.score, sample[:min(rows, COLD)]),
                  ladder.batches(engine.score, sample, size=BATCH, budget_s=budget_s), facts,
                  {"6 parity": f"{flips} of {len(ours)} transactions are classed otherwise than by scikit-learn" if flips else None})


def scenario(scenario: str, *, seconds: float) -> Found:
    """LoadGen's `scenario` over the pipeline as shipped, in its process: what a socket takes (some 50 µs a query) is counted in.

    Raises Skipped without its environment, Died.
    """
    with worker() as shipped:
        return scenarios.measured(scenario, partial(shipped.score, way="pandas"), sampled(20_000), seconds=seconds)


class Onnx:
    """The shipped forest in ONNX Runtime on one thread: values (n, 11) → probabilities (n,), float32 within."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = 1, 1
        self._session = onnxruntime.InferenceSession(onnx_forest(arrays).SerializeToString(), options, providers=["CPUExecutionProvider"])
        self._mean, self._scale = arrays["amount"].tolist()

    def score(self, rows: NDArray[Any]) -> Values:
        scaled = rows.astype(np.float32)
        scaled[:, AMOUNT] = (rows[:, AMOUNT] - self._mean) / self._scale
        found: Values = self._session.run(["margin"], {"x": scaled})[0][:, 0].astype(np.float64)
        return found


def onnx_forest(arrays: Mapping[str, NDArray[Any]]) -> ModelProto:
    """The forest as a graph: "x" float32 (n, 11), the amount standardised → "margin" (n, 1), here a probability. Raises ValueError."""
    if (names := tuple(arrays["names"].tolist())) != COLUMNS:
        raise ValueError(f"the shipped forest takes {', '.join(names)}; expected were {', '.join(COLUMNS)}")
    leaf = arrays["left"] < 0
    branch = {name: np.where(leaf, 0, arrays[name]) for name in ("feature", "threshold", "left", "right")}
    made = trees.Trees(tree=arrays["tree"], node=arrays["node"], leaf=leaf, value=np.where(leaf, arrays["value"], 0), **branch)
    return trees.onnx(made, inputs=len(COLUMNS), average=True)


def values(ledger: data.Ledger) -> Values:
    """(n, 11): what the shipped pipeline wants of each transaction, in the order of COLUMNS."""
    return np.column_stack([ledger.amount if name == "Amount" else ledger.v[:, data.COMPONENTS.index(name)] for name in COLUMNS])


def sampled(n: int) -> NDArray[Any]:
    """Values of `n` different transactions, drawn once and for all."""
    whole = data.ledger()
    order = np.random.default_rng(0).permutation(len(whole))[:n]
    return values(data.Ledger(whole.second[order], whole.cents[order], whole.v[order], whole.fraud[order]))


def _found(warm: Any, cold: Any, batch_s: list[float], facts: dict[str, Any], checks: dict[str, str | None]) -> Found:
    frames = {kept: pd.DataFrame({"ns": np.asarray(ns, np.int64)}) for kept, ns in (("warm", warm), ("cold", cold))}
    return Found({"batch_s": batch_s}, facts, checks, frames)
