"""How long a plan will take: the arithmetic, and when nothing is said."""

from __future__ import annotations

import pytest

from lib.llm import estimate
from lib.llm.load import Closed, Open, Replay, Waves
from lib.llm.model import Shape
from lib.llm.workload import Request

SHAPE = Shape(layers=2, hidden=64, intermediate=128, heads=2, kv_heads=1, head_dim=32, vocab=1000, context=4096, tied=True)
ASKED = [Request((1,) * 100, 10)] * 8
LIMITS = {"bandwidth": 1e9, "matmul": 1e9}


def seconds(load: Closed | Open | Replay | Waves) -> float:
    return estimate.seconds(ASKED, load, SHAPE, **LIMITS)


def test_one_stream_pays_every_prompt_and_every_step_at_a_share_of_the_ceilings() -> None:
    worked_s = 8 * SHAPE.prefill_flops(100) / 1e9 + 80 * SHAPE.decode_bytes(2 * SHAPE.parameters, 100) / 1e9
    assert seconds(Closed(1)) == pytest.approx(worked_s / estimate.REACHED)


def test_streams_share_their_steps_and_no_more_of_them_than_there_are_requests() -> None:
    assert seconds(Closed(4)) < seconds(Closed(1))
    assert seconds(Waves(4)) == seconds(Closed(4))
    assert seconds(Closed(8)) == seconds(Closed(800))


def test_an_open_load_lasts_as_long_as_its_schedule() -> None:
    assert seconds(Open(0.5)) == 16
    assert seconds(Replay((0.0, 60.0), "t")) == 60
    assert seconds(Open(1e6)) == seconds(Closed(8))
