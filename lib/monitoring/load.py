"""The load: requests that come as customers come, whatever the services do.

An open loop a service: arrivals from a seeded Poisson process (or evenly spaced), each sent when it is due and never after an answer; a
service that stands still meets the same arrivals. Bounded in flight, beyond which a request is written down as dropped, not left out.
Every request is a line of the log, stamped by the monotonic clock and told in unix seconds (one offset for all): the truth that
percentiles from buckets are held against. `PUT /plan` changes rates and lengths while it runs, `GET /plan` tells them and what was
counted, `GET /under-way` what has no line yet.

    python -m lib.monitoring.load --gateway http://127.0.0.1:8080 --control 8090 --log load.jsonl [--service fraud …]
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, replace
from itertools import count
from math import isfinite
from pathlib import Path
from typing import IO, Annotated, Any

import aiohttp
import typer
from aiohttp import web

from lib.monitoring.asks import MAKERS, SHARED_TOKENS, Answer, Ask, Maker
from lib.monitoring.shim import events, serve

MOST_RATE, MOST_BURST, MOST_IN_FLIGHT = 2_000.0, 5_000, 1_024
MOST_LOG_BYTES = 2**30  # some thirty hours of the default plan; what comes after is counted as "unwritten"
PATIENCE_S = 30.0  # the gateway gives up long before
FLUSH_S = 0.2
DROPPED, UNANSWERED = -1, 0  # what stands in for a status


@dataclass(frozen=True, slots=True)
class Flow:
    """How one service is asked: arrivals a second, evenly spaced or Poisson; lengths where it speaks in tokens.

    `shared_tokens`: of a prompt, those that all prompts begin with. `cut_every` n-th body is cut off (0 none, 1 all).
    """

    rate: float
    even: bool = False
    prompt_tokens: int = 48
    output_tokens: int = 12
    shared_tokens: int = SHARED_TOKENS
    cut_every: int = 0

    def changed(self, told: Any) -> Flow:
        """With what `told` says otherwise. Raises ValueError that says what is wrong."""
        counts = ("prompt_tokens", "output_tokens", "shared_tokens", "cut_every")
        kinds = {"rate": (int, float), "even": (bool,), **dict.fromkeys(counts, (int,))}
        if not isinstance(told, dict) or told.keys() - kinds:
            raise ValueError(f"a flow is an object of {', '.join(kinds)}, not {told!r:.100}")
        if wrong := [name for name, value in told.items() if type(value) not in kinds[name]]:
            raise ValueError(f"{wrong[0]} cannot be {told[wrong[0]]!r:.100}")
        flow = replace(self, **told)
        if not (isfinite(flow.rate) and 0 <= flow.rate <= MOST_RATE and flow.output_tokens >= 1 and flow.cut_every >= 0
                and flow.prompt_tokens > flow.shared_tokens >= 0 and flow.shared_tokens <= SHARED_TOKENS):  # fmt: skip
            raise ValueError(f"{flow}: a rate from 0 to {MOST_RATE:g}/s, prompts beyond their shared tokens, {SHARED_TOKENS} at most, an "
                             "answer, no negative counts")
        return flow

    def gap_s(self, chance: random.Random) -> float:
        """Until the next arrival; without a rate, until somebody asks again."""
        if not self.rate:
            return PATIENCE_S
        return 1 / self.rate if self.even else chance.expovariate(self.rate)


DEFAULT = {"fraud": Flow(40.0), "retail": Flow(1.0), "llm": Flow(2.0)}  # the LLM: 0.2 s of one core a request


class Load:
    """Plan, arrivals, log. For one event loop."""

    def __init__(self, gateway: str, log: IO[str], makers: dict[str, Maker], *, seed: int = 0) -> None:
        self.plan = {name: DEFAULT[name] for name in makers}
        self.counts, self._made = Counter[str](), Counter[str]()
        self._gateway, self._log, self._makers, self._seed = gateway, log, makers, seed
        self._changed = {name: asyncio.Event() for name in makers}
        self._asking: dict[asyncio.Task[None], tuple[int, str, Answer]] = {}
        self._numbers, self._written = count(), 0
        self._unix_less_monotonic_s = time.time() - time.monotonic()  # what uvloop's clock and asyncio's count in

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/plan", self.get)
        app.router.add_put("/plan", self.put)
        app.router.add_get("/under-way", self.under_way)
        app.cleanup_ctx.append(self._running)
        return app

    async def get(self, _: web.Request) -> web.Response:
        told = {name: asdict(flow) for name, flow in self.plan.items()}
        return web.json_response({**told, "counts": dict(self.counts), "under_way": len(self._asking), "cpu_s": time.process_time()})

    async def under_way(self, _: web.Request) -> web.Response:
        self._log.flush()
        return web.json_response([self._told(*asking) for asking in self._asking.values()])

    async def put(self, request: web.Request) -> web.Response:
        try:
            plan, bursts = self._read(await request.json())
        except ValueError as wrong:
            return web.json_response({"error": str(wrong)}, status=400)
        for name in [name for name, flow in plan.items() if flow != self.plan[name]]:
            self._changed[name].set()
        self.plan = plan
        for name, n in bursts.items():
            for _ in range(n):
                self._send(name, asyncio.get_running_loop().time())
        return await self.get(request)

    def _read(self, told: Any) -> tuple[dict[str, Flow], dict[str, int]]:
        if not isinstance(told, dict) or told.keys() - {*self.plan, "burst"}:
            raise ValueError(f"a plan is an object of {', '.join(self.plan)} and burst, not {told!r:.100}")
        bursts = told.get("burst", {})
        if not isinstance(bursts, dict) or any(name not in self.plan or type(n) is not int or not 0 <= n <= MOST_BURST
                                               for name, n in bursts.items()):  # fmt: skip
            raise ValueError(f"a burst is so many requests at once (up to {MOST_BURST}) by service, not {bursts!r:.100}")
        return {name: flow.changed(told.get(name, {})) for name, flow in self.plan.items()}, bursts

    async def _running(self, _: web.Application) -> AsyncIterator[None]:
        waits, plain = aiohttp.ClientTimeout(total=PATIENCE_S), aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(self._gateway, connector=plain, timeout=waits) as self._session:
            work = [asyncio.create_task(self._arrive(name)) for name in self.plan] + [asyncio.create_task(self._flush())]
            yield
            for task in (*work, *self._asking):
                task.cancel()
            await asyncio.gather(*work, *self._asking, return_exceptions=True)

    async def _arrive(self, name: str) -> None:
        """From schedule: after a pause of ours, what was due meanwhile is sent at once."""
        loop, chance, changed = asyncio.get_running_loop(), random.Random(f"{self._seed} {name}"), self._changed[name]
        due = loop.time()
        while True:
            flow = self.plan[name]
            changed.clear()
            gap_s = flow.gap_s(chance)
            if (wait_s := due + gap_s - loop.time()) > 0:
                try:
                    await asyncio.wait_for(changed.wait(), wait_s)
                    due = loop.time()  # another plan, counted from here
                    continue
                except TimeoutError:
                    pass
            due += gap_s
            if flow.rate:
                self._send(name, due)

    def _send(self, name: str, due: float) -> None:
        number, answer = next(self._numbers), Answer(due, asyncio.get_running_loop().time())
        if len(self._asking) >= MOST_IN_FLIGHT:
            answer.status, answer.error = DROPPED, "too many under way"
            self._write(number, name, answer)
            return
        flow = self.plan[name]
        ask = self._makers[name](flow.prompt_tokens, flow.output_tokens, flow.shared_tokens)
        self._made[name] += 1
        if flow.cut_every and self._made[name] % flow.cut_every == 0:
            ask = ask.cut()
        task = asyncio.create_task(self._ask(number, name, ask, answer))
        self._asking[task] = number, name, answer
        task.add_done_callback(self._asking.pop)

    async def _ask(self, number: int, name: str, ask: Ask, answer: Answer) -> None:
        clock = asyncio.get_running_loop().time
        answer.sent, status = clock(), UNANSWERED
        try:
            async with self._session.post(ask.path, data=ask.body, headers={"Content-Type": ask.kind}) as response:
                if ask.streamed and response.status == 200:
                    async for event in events(response.content):
                        answer.read(event, clock())
                else:
                    await response.read()
                status = response.status
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:  # an answer that cannot be read is none
            answer.error = type(error).__name__
        answer.status, answer.done = status, clock()
        self._write(number, name, answer)

    def _write(self, number: int, name: str, answer: Answer) -> None:
        self.counts[f"{name} {answer.status}"] += 1
        if self._written > MOST_LOG_BYTES:
            self.counts["unwritten"] += 1
        else:
            self._written += self._log.write(json.dumps(self._told(number, name, answer)) + "\n")

    def _told(self, number: int, name: str, answer: Answer) -> dict[str, object]:
        return answer.json(number, name, unix_less_monotonic_s=self._unix_less_monotonic_s)

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            self._log.flush()


def main(
    gateway: Annotated[str, typer.Option(help="Who is asked.")] = "http://127.0.0.1:8080",
    control: Annotated[int, typer.Option(help="Port of /plan; 0 takes a free one.")] = 8090,
    log: Annotated[Path, typer.Option(help="Where each request becomes a line; appended to.")] = Path("load.jsonl"),
    services: Annotated[list[str], typer.Option("--service", help=", ".join(MAKERS) + "; may be given again.", show_default="all")] = [],  # noqa: B006
    seed: Annotated[int, typer.Option(help="Of arrivals and prompts.")] = 0,
) -> None:
    """Ask services through the gateway until told to stop."""
    if strangers := set(services) - MAKERS.keys():
        raise typer.BadParameter(f"there is no service {', '.join(sorted(strangers))}; there are {', '.join(MAKERS)}")
    makers = {name: make() for name, make in MAKERS.items() if name in (services or MAKERS)}
    with log.open("a") as out:
        serve(Load(gateway, out, makers, seed=seed).app(), control)


if __name__ == "__main__":
    typer.run(main)
