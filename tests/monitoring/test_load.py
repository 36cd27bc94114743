"""The load keeps its schedule whatever the gateway does, and writes down every request."""

from __future__ import annotations

import asyncio
import io
import json
import random
import statistics
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given
from hypothesis import strategies as st

from lib.monitoring import asks, load
from lib.monitoring.asks import Answer, Ask
from lib.monitoring.load import DEFAULT, MOST_BURST, MOST_RATE, Flow, Load

STREAM = [{"choices": [{"text": ""}]}, {"choices": [{"text": "a"}]}, {"choices": [{"text": "b"}]},
          {"choices": [], "usage": {"completion_tokens": 2, "prompt_tokens": 48, "prompt_tokens_details": {"cached_tokens": 24}}}]


class Gateway:
    """Answers at once, or never."""

    def __init__(self) -> None:
        self.silent, self.heard = False, list[bytes]()

    async def score(self, request: web.Request) -> web.Response:
        self.heard.append(await request.read())
        if self.silent:
            await asyncio.sleep(60)
        return web.Response(status=503 if self.heard[-1] == b"busy" else 200)

    async def speak(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        for event in STREAM:
            await answer.write(f"data: {json.dumps(event)}\n\n".encode())
            await asyncio.sleep(0.02)
        await answer.write(b"data: [DONE]\n\n")
        return answer


def lines(log: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


@asynccontextmanager
async def loaded(log: io.StringIO) -> AsyncIterator[tuple[TestClient[web.Request, web.Application], Gateway]]:
    gateway, app = Gateway(), web.Application()
    app.router.add_post("/score", gateway.score)
    app.router.add_post("/speak", gateway.speak)
    makers = {"fraud": lambda *_: Ask("/score", b"one", "application/json"),
              "llm": lambda *asked: Ask("/speak", " ".join(map(str, asked)).encode(), "application/json", streamed=True)}
    async with (TestServer(app, handler_cancellation=True) as behind,
                TestClient(TestServer(Load(f"http://127.0.0.1:{behind.port}", log, makers).app())) as client):  # fmt: skip
        yield client, gateway


async def planned(client: TestClient[web.Request, web.Application], **plan: object) -> None:
    assert (await client.put("/plan", json=plan)).status == 200


def test_an_open_loop_does_not_wait_for_answers() -> None:
    log = io.StringIO()

    async def course() -> None:
        async with loaded(log) as (client, gateway):
            gateway.silent = True
            await planned(client, fraud={"rate": 100, "even": True}, llm={"rate": 0})
            await asyncio.sleep(1)
            assert 80 <= len(gateway.heard) <= 101, "as many as were due, though none was answered"
            under_way = await (await client.get("/under-way")).json()
            assert len(under_way) >= 80 and {row["status"] for row in under_way} == {None}
            assert lines(log) == [], "what has no end has no line"

    asyncio.run(course())


def test_every_request_is_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(load, "MOST_IN_FLIGHT", 5)

    async def course() -> None:
        async with loaded(log) as (client, gateway):
            gateway.silent = True
            await planned(client, fraud={"rate": 0}, llm={"rate": 0}, burst={"fraud": 8})
            await asyncio.sleep(0.2)
            told = await (await client.get("/plan")).json()
            assert (told["counts"], told["under_way"]) == ({"fraud -1": 3}, 5)

    asyncio.run(course())
    assert [row["error"] for row in lines(log)] == ["too many under way"] * 3


def test_a_stream_is_stamped_at_its_first_and_last_token() -> None:
    log = io.StringIO()

    async def course() -> None:
        async with loaded(log) as (client, _):
            await planned(client, fraud={"rate": 0}, llm={"rate": 0}, burst={"llm": 1})
            await asyncio.sleep(0.4)

    asyncio.run(course())
    (row,) = lines(log)
    assert (row["status"], row["tokens"], row["prompt"], row["cached"]) == (200, 2, 48, 24)
    sent, first, last, done = (float(row[name]) for name in ("sent_s", "first_s", "last_s", "done_s"))  # type: ignore[arg-type]
    assert sent + 0.02 <= first < first + 0.01 < last < last + 0.02 < done


def test_every_so_many_a_body_is_cut_off() -> None:
    async def course() -> list[bytes]:
        async with loaded(io.StringIO()) as (client, gateway):
            await planned(client, fraud={"rate": 0, "cut_every": 3}, llm={"rate": 0}, burst={"fraud": 6, "llm": 2})
            await asyncio.sleep(0.3)
            await planned(client, fraud={"cut_every": 0}, burst={"fraud": 2})
            await asyncio.sleep(0.1)
            return gateway.heard

    assert sorted(asyncio.run(course())) == [b"o", b"o", *[b"one"] * 6]


def test_prompts_begin_alike_or_not() -> None:
    """Of prose whose tokens are numbered: two that share three tokens, and two that share none of the beginning."""
    words = asks.llm_of(list(range(1000, 2000)), seed=1)

    def prompts(shared: int) -> list[list[int]]:
        return [json.loads(words(8, 2, shared).body)["prompt"] for _ in range(2)]

    alike, apart = prompts(3), prompts(0)
    assert [len(one) for one in (*alike, *apart)] == [8] * 4
    assert alike[0][:3] == alike[1][:3] == [1000, 1001, 1002] and alike[0][3:] != alike[1][3:]
    assert apart[0][0] != apart[1][0] and 1000 not in apart[0] + apart[1]


def test_poisson_arrivals_are_seeded_and_have_the_rate_they_say() -> None:
    def gaps(seed: int, flow: Flow) -> list[float]:
        chance = random.Random(seed)
        return [flow.gap_s(chance) for _ in range(10_000)]

    first = gaps(1, Flow(40))
    assert first == gaps(1, Flow(40)) != gaps(2, Flow(40))
    assert statistics.mean(first) == pytest.approx(1 / 40, rel=0.04) and statistics.stdev(first) == pytest.approx(1 / 40, rel=0.06)
    assert set(gaps(1, Flow(40, even=True))) == {1 / 40}


JSON = st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(
    st.sampled_from(["fraud", "llm", "burst", "rate", "even", "prompt_tokens", "output_tokens", "shared_tokens", "cut_every"])
    | st.text(), inner))  # fmt: skip


@given(JSON)
def test_a_flow_is_understood_or_refused(told: object) -> None:
    try:
        flow = DEFAULT["llm"].changed(told)
    except ValueError as wrong:
        assert str(wrong)
    else:
        assert 0 <= flow.rate <= MOST_RATE and flow.output_tokens >= 1 and flow.cut_every >= 0
        assert 0 <= flow.shared_tokens < flow.prompt_tokens


@pytest.mark.parametrize("plan", [
    [], {"stranger": {}}, {"fraud": 3}, {"fraud": {"rate": -1}}, {"fraud": {"rate": True}}, {"fraud": {"pace": 1}}, {"burst": {"x": 1}},
    {"burst": {"fraud": MOST_BURST + 1}}, {"llm": {"prompt_tokens": 3}}, {"llm": {"output_tokens": 0}}, {"llm": {"shared_tokens": 48}},
    {"llm": {"shared_tokens": -1}}, {"fraud": {"cut_every": -1}}, {"fraud": {"cut_every": 0.5}},
])  # fmt: skip
def test_a_wrong_plan_changes_nothing(plan: object) -> None:
    async def course() -> None:
        async with loaded(io.StringIO()) as (client, _):
            answer = await client.put("/plan", json=plan)
            assert answer.status == 400 and (await answer.json())["error"]
            told = await (await client.get("/plan")).json()
            assert told["fraud"]["rate"] == DEFAULT["fraud"].rate

    asyncio.run(course())


def test_an_answer_is_told_in_unix_seconds() -> None:
    row = Answer(1.0, 1.5, status=200, done=2.0).json(7, "fraud", unix_less_monotonic_s=1000.0)
    assert (row["n"], row["due_s"], row["sent_s"], row["first_s"], row["done_s"]) == (7, 1001.0, 1001.5, None, 1002.0)
