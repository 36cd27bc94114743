"""A trace of ours in TensorBoard's profiler plugin, by its own server: it finds the run, and counts the operators that we count."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lib.process import free_port
from lib.profiling import ledger, trace
from lib.profiling.traces import NAME

SAMPLE = Path(__file__).resolve().parents[1] / "samples" / "resnet18.pt.trace.json.gz"
PLUGIN = "data/plugin/pytorch_profiler"


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A TensorBoard on loopback over one run."""
    folder = tmp_path_factory.mktemp("board")
    (folder / "resnet18").mkdir()
    shutil.copyfile(SAMPLE, folder / "resnet18" / NAME)
    port = free_port()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}/{PLUGIN}"
    finally:
        server.terminate()
        server.wait(20)


def asked(url: str, until_s: float = 90) -> Any:
    """Its answer, once it has one: it loads runs while it answers already."""
    ends = time.monotonic() + until_s
    while True:
        try:
            told = httpx.get(url, trust_env=False, timeout=10)
            if told.status_code == 200 and not (isinstance(told.json(), dict) and told.json().get("loading")):
                return told.json()
        except (httpx.HTTPError, ValueError):
            pass
        assert time.monotonic() < ends, f"{url} has no answer"
        time.sleep(0.5)


def test_it_finds_the_run_and_its_views(board: str) -> None:
    assert asked(f"{board}/runs")["runs"] == ["resnet18"]
    assert {"Operator", "Trace"} <= set(asked(f"{board}/views?run=resnet18"))


def test_it_counts_the_operators_that_we_count(board: str) -> None:
    asked(f"{board}/runs")
    (worker,) = asked(f"{board}/workers?run=resnet18&view=Operator")
    (span,) = asked(f"{board}/spans?run=resnet18&worker={worker}")
    rows = asked(f"{board}/operation/table?run=resnet18&worker={worker}&span={span}&group_by=Operation")["data"]
    theirs = {row["name"]: row["calls"] for row in rows}
    frame = trace.read(SAMPLE)
    ours = frame[frame["kind"] == "operator"]["name"].value_counts().to_dict()
    assert {name: theirs.get(name) for name in ("aten::conv2d", "aten::batch_norm", "aten::relu_", "aten::add_") if name in ours} == {
        name: ours[name] for name in ("aten::conv2d", "aten::batch_norm", "aten::relu_", "aten::add_") if name in ours
    }  # fmt: skip
    assert ours["aten::conv2d"] == 20


def test_the_sample_is_one_whole_pass() -> None:
    frame = trace.read(SAMPLE)
    parts = ledger.parts(frame).set_index("part")
    assert frame["pass"].nunique() == 1 and parts.loc["convolution", "n"] == 20 and parts.loc["batch norm", "n"] == 20
    assert SAMPLE.stat().st_size < 20_000
