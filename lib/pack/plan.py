"""What is measured in a box of time, and in which order: data, and a scheduler that knows nothing but a clock.

A step has a start (a checkpoint to write, a server to bring up) and points; a point is begun only if its estimate fits what is left, so
that the box is never overrun by more than an estimate was wrong. Refuses a box in which nothing fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from lib.llm import mix
from lib.llm.engines.engine import DEFAULT, Options
from lib.llm.load import Closed, Load, Waves
from lib.llm.workload import Work, Workload

Does = Literal["ceilings", "client", "serve", "pictures"]


class TooSmall(ValueError):
    """A box of time in which no step fits."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One point: what is asked of a server and how, or a form of a network (`form`); `seconds` is an estimate."""

    seconds: float
    work: Work | None = None
    load: Load | None = None
    form: str = ""

    @property
    def name(self) -> str:
        if self.work is None or self.load is None:
            return self.form
        return ", ".join(f"{key} {value}" for key, value in {**self.work.setting, **self.load.setting}.items())


@dataclass(frozen=True, slots=True)
class Step:
    """`does` what for which `asks`, the most valuable first; `start_s` before the first. `form`: of the weights that must be there."""

    name: str
    does: Does
    start_s: float
    asks: tuple[Ask, ...]
    engine: str = ""
    precision: str = "16-bit"
    form: str = "bf16"
    slots: int = 1
    options: Options = DEFAULT

    @property
    def least_s(self) -> float:
        """Seconds in which it brings its first point."""
        return self.start_s + self.asks[0].seconds


def fitting(step: Step, left_s: Callable[[], float]) -> Iterator[tuple[Ask, str | None]]:
    """The step's points in order, each with why it does not fit any more, or None; the clock is asked when each is due."""
    for ask in step.asks:
        yield ask, _lacks(ask.seconds, left_s())


def follow(steps: Sequence[Step], *, left_s: Callable[[], float], do: Callable[[Step], None],
           skip: Callable[[Step, Iterable[Ask], str], None]) -> None:
    """Do every step that fits when its turn comes, skip the others with the reason: a later, smaller one may still fit."""
    for step in steps:
        if reason := _lacks(step.least_s, left_s()):
            skip(step, step.asks, reason)
        else:
            do(step)


def check(steps: Sequence[Step], seconds: float) -> None:
    """Raises TooSmall, with what would be needed, where not even the smallest step fits; ValueError for a plan of nothing."""
    if not steps:
        raise ValueError("a plan without steps")
    smallest = min(steps, key=lambda step: step.least_s)
    if smallest.least_s > seconds:
        raise TooSmall(f"a box of {seconds:.0f} s is too small for anything: {smallest.name} takes {smallest.least_s:.0f} s")


def total_s(steps: Iterable[Step]) -> float:
    return sum(step.start_s + sum(ask.seconds for ask in step.asks) for step in steps)


def _lacks(seconds: float, left_s: float) -> str | None:
    return None if seconds <= left_s else f"no time left: needs about {seconds:.0f} s, {max(0.0, left_s):.0f} s are left of the box"


LEAST = 4  # measured requests of a closed loop, however few its streams


def closed(streams: int, seconds: float, *, prompt: int = 512, output: int = 128) -> Ask:
    """A closed loop, a request a stream for warm-up and as many measured ones."""
    return Ask(seconds, Workload(prompt, output, streams + max(LEAST, streams), seed=streams), Closed(streams, warmup=streams))


def waves(size: int, seconds: float, *, scale: float, count: int = 3) -> tuple[Ask, Ask]:
    """Mixed lengths, as whole waves by the client and as a closed loop of as many streams: the same requests."""
    work = mix.CONVERSATION.scaled(scale).of(size * count)
    return Ask(seconds, work, Waves(size, warmup=size)), Ask(seconds, work, Closed(size, warmup=size))


SWEEP = tuple(closed(n, s) for n, s in ((1, 6), (4, 6), (16, 8), (64, 12), (256, 30)))
SHORT = tuple(closed(n, s) for n, s in ((1, 6), (16, 8), (64, 12)))
CONTEXTS = tuple(closed(1, 5, prompt=n) for n in (128, 2048, 4096))  # beside the 512 of the sweeps
PUBLISHED = (closed(256, 12, prompt=128, output=128), closed(256, 45, prompt=1000, output=1000))  # lengths of data/published/throughput.csv
PICTURES = ("eager", "fp16", "channels_last, fp16", "channels_last, fp16, cuda graph", "channels_last, fp16, compile", "bf16")
VLLM_S, LLAMA_S = 120, 20  # until a server of eight billion weights is up

# Seconds are estimates for an H200 from its published bandwidth; nobody has run this plan on one yet. What comes first is wanted most.
BIG = (
    Step("ceilings", "ceilings", 15, (Ask(15, form="limits"), Ask(5, form="copy"), Ask(5, form="float8"))),
    Step("vllm", "serve", 60 + VLLM_S, (*SWEEP, *CONTEXTS, *waves(64, 20, scale=1 / 4)), engine="vllm", slots=256),
    Step("llamacpp", "serve", 40 + LLAMA_S, (*SHORT, *CONTEXTS), engine="llamacpp", form="f16", slots=64),
    Step("llamacpp-q4", "serve", 90 + LLAMA_S, SHORT, engine="llamacpp", precision="Q4_K_M", form="q4_k_m", slots=64),
    Step("vllm-fp8", "serve", VLLM_S, (*SHORT, *PUBLISHED), engine="vllm", precision="FP8", slots=256),
    Step("vllm-int4", "serve", 25 + VLLM_S, SHORT, engine="vllm", precision="INT4", form="w4a16", slots=64),
    Step("vllm-kv8", "serve", VLLM_S, SHORT[::2], engine="vllm", slots=64, options=Options(kv="8-bit")),
    Step("pictures", "pictures", 20, tuple(Ask(12 if "compile" not in form else 60, form=form) for form in PICTURES)),
    Step("client", "client", 2, (Ask(8, form="null server"),)),
    Step("vllm-int8", "serve", 30 + VLLM_S, SHORT, engine="vllm", precision="INT8", form="w8a8", slots=64),
    Step("llamacpp-q8", "serve", 60 + LLAMA_S, SHORT, engine="llamacpp", precision="INT8", form="q8_0", slots=64),
    Step("llamacpp-kv8", "serve", LLAMA_S, SHORT[::2], engine="llamacpp", form="f16", slots=64, options=Options(kv="8-bit")),
)  # fmt: skip
_FEW = tuple(closed(n, 3, prompt=64, output=16) for n in (1, 4))
DRY = (
    Step("ceilings", "ceilings", 3, (Ask(8, form="limits"), Ask(1, form="copy"), Ask(1, form="float8"))),
    Step("client", "client", 1, (Ask(8, form="null server"),)),
    Step("llamacpp", "serve", 3, (*_FEW, *waves(4, 5, scale=1 / 16)), engine="llamacpp", form="f16", slots=4),
    Step("llamacpp-q4", "serve", 3, _FEW, engine="llamacpp", precision="Q4_K_M", form="q4_k_m", slots=4),
    Step("llamacpp-kv8", "serve", 2, _FEW[:1], engine="llamacpp", form="f16", slots=4, options=Options(kv="8-bit")),
    Step("vllm", "serve", 40, _FEW, engine="vllm", slots=4),
    Step("vllm-fp8", "serve", 40, _FEW[:1], engine="vllm", precision="FP8", slots=4),
    Step("vllm-int8", "serve", 40, _FEW[:1], engine="vllm", precision="INT8", form="w8a8", slots=4),
    Step("vllm-int4", "serve", 40, _FEW[:1], engine="vllm", precision="INT4", form="w4a16", slots=4),
    Step("pictures", "pictures", 4, tuple(Ask(3, form=form) for form in PICTURES[:2])),
)  # fmt: skip
