"""Every check lets a sound point pass and names the numbers of one that breaks physics."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from math import nan

import pytest

from lib import audit

QUIET: Mapping[str, float | str | None] = {"wall_s": 10.0, "other_cpu_s": 0.5, "steal_s": 0.1, "gpu_throttle": None}
Check = Callable[[], str | None]


def quiet(**changed: float | str | None) -> Check:
    return lambda: audit.undisturbed({**QUIET, **changed}, cores=2)


# What honest measurements of SmolLM2-135M in bf16 (269 MB) on 50 GB/s and 900 GFLOP/s look like.
SOUND: dict[str, Check] = {
    "1": lambda: audit.tpot_adds_up(0.05, 0.68, 64, 1, 0.01),
    "1, four tokens at once": lambda: audit.tpot_adds_up(0.05, 0.65, 64, 4, 0.01),
    "2": lambda: audit.littles_law(8, 16.0, 0.49),
    "3a": lambda: audit.decode_floor(0.0074, 269e6, 50e9),
    "3a, at the ceiling": lambda: audit.decode_floor(269e6 / 50e9, 269e6, 50e9),
    "3a, all in cache": lambda: audit.decode_floor(0.001, 92e6, 50e9, cache_bytes=256e6),
    "3b": lambda: audit.prefill_floor(0.1, 55e9, 900e9),
    "4a 16-bit": lambda: audit.stored_precision(16.0, "16-bit"),
    "4a INT8": lambda: audit.stored_precision(8.51, "INT8"),
    "4a INT4": lambda: audit.stored_precision(5.35, "INT4"),
    "4a Q4_K_M": lambda: audit.stored_precision(6.17, "Q4_K_M"),
    "4a bytes": lambda: audit.stored_bytes(163.2e6, 162.8e6, "w8a8"),
    "4b": lambda: audit.batch_ran(7.2, 8),
    "4b, one stream": lambda: audit.batch_ran(1.0, 1),
    "5": lambda: audit.client_lag([0.0001] * 99 + [0.004], budget_s=0.005),
    "6a": lambda: audit.lengths([(64, 64), (7, 7)], [(104, 104), (9, 9)]),
    "6b": lambda: audit.prefix_hits(10, 1000),
    "7": lambda: audit.ttft_agrees(0.105, 0.1),
    "7, a server's coarse clock": lambda: audit.ttft_agrees(0.0995, 0.1),
    "8": quiet(),
    "9": lambda: audit.energy_agrees(1000.0, 860.0, wall_s=10.0),
    "ceiling": lambda: audit.repeats([1.0, 1.2, 1.05, 1.1, 1.02]),
}  # fmt: skip

# What somebody once published, or could: and the words that must go with it.
BROKEN: dict[str, tuple[Check, str]] = {
    "1, half the truth": (lambda: audit.tpot_adds_up(0.05, 0.68, 64, 1, 0.005), "TPOT 0.005000 s, .* is 0.010000 s"),
    "1, k₁ forgotten": (lambda: audit.tpot_adds_up(0.05, 0.65, 64, 4, 0.6 / 63), "TPOT 0.009524 s, .* is 0.010000 s"),
    "1, not a number": (lambda: audit.tpot_adds_up(0.05, 0.68, 64, 1, nan), "TPOT nan s"),
    "2, more than was sent": (lambda: audit.littles_law(8, 16.0, 0.8), "says 12.80 requests in flight, .* held 8.00"),
    "2, a load that was not held": (lambda: audit.littles_law(8, 16.0, 0.2), "says 3.20 .* held 8.00"),
    "3a, faster than memory": (lambda: audit.decode_floor(0.0027, 269e6, 50e9),
                               "TPOT 2.70 ms is below the 5.38 ms that reading 269 MB"),
    "3a, cache holds but a part": (lambda: audit.decode_floor(0.001, 269e6, 50e9, cache_bytes=32e6), "4.74 ms"),
    "3b, faster than matrices": (lambda: audit.prefill_floor(0.02, 55e9, 900e9),
                                 "TTFT 20.00 ms is below the 61.11 ms that 55.0 GFLOP"),
    "4a, never quantised": (lambda: audit.stored_precision(16.0, "INT8"), r"16.00 bits a weight is not INT8 \(7.9–9"),
    "4a, secretly quantised": (lambda: audit.stored_precision(8.5, "16-bit"), "8.50 bits a weight is not 16-bit"),
    "4a, 16 bit sold as W8A8": (lambda: audit.stored_bytes(269e6, 162.8e6, "w8a8"), r"269.0 MB of weights, w8a8 implies 162.8 \(\+65%"),
    "4a, INT8 sold as INT4": (lambda: audit.stored_precision(8.5, "INT4"), "8.50 bits a weight is not INT4"),
    "4b": (lambda: audit.batch_ran(1.1, 8), "8 requests were in flight, the engine ran 1.1 a step"),
    "5": (lambda: audit.client_lag([0.0001] * 90 + [0.02] * 10, budget_s=0.005), r"lagged 20.0 ms \(p99\), 5 ms"),
    "5, nobody looked": (lambda: audit.client_lag([], budget_s=0.005), "not measured"),
    "6a, shorter": (lambda: audit.lengths([(64, 64), (17, 64)], [(104, 104)] * 2), "asked for 64 output tokens, got 17$"),
    "6a, unknown": (lambda: audit.lengths([(64, 64), (None, 64)], [(104, 104)] * 2), "asked for 64 output tokens, got None"),
    "6a, a token added": (lambda: audit.lengths([(64, 64)], [(105, 104)]), "sent 104 prompt tokens, .* counted 105"),
    "6a, prompt not counted": (lambda: audit.lengths([(64, 64)], [(None, 104)]), "sent 104 .* counted None"),
    "6b": (lambda: audit.prefix_hits(250, 1000), "25% of the prompt tokens came from a prefix cache"),
    "7, sooner than the engine": (lambda: audit.ttft_agrees(0.09, 0.1), "TTFT of 90.0 ms, the engine counted 100.0"),
    "7, much later": (lambda: audit.ttft_agrees(0.15, 0.1), "saw a TTFT of 150.0 ms, the engine counted 100.0"),
    "8, throttled": (quiet(gpu_throttle=float(0x40)), r"the GPU slowed itself down \(reasons 0x40\)"),
    "8, somebody else": (quiet(other_cpu_s=8.0), "other processes took 40% of the processors"),
    "8, stolen": (quiet(steal_s=4.0), "the hypervisor took 20% of the processors"),
    "8, governor": (quiet(governor_change="performance → powersave"), "governor changed: performance → powersave"),
    "8, not sampled": (quiet(wall_s=None), "the window was not sampled"),
    "8, not known": (quiet(other_cpu_s=None, status="the process has ended"), "not known: the process has ended"),
    "8, nobody looked": (lambda: audit.undisturbed({}, cores=2), "not sampled"),
    "9": (lambda: audit.energy_agrees(1000.0, 900.0, wall_s=60.0), "counter says 1000.0 J, the sampled power 900.0 J"),
    "ceiling": (lambda: audit.repeats([1.0, 1.0, 1.3, 1.3]), "differ by 30%"),
    "ceiling, once": (lambda: audit.repeats([1.0]), "one sample is no ceiling"),
}  # fmt: skip


@pytest.mark.parametrize("check", SOUND.values(), ids=SOUND)
def test_a_sound_point_passes(check: Check) -> None:
    assert check() is None


@pytest.mark.parametrize(("check", "words"), BROKEN.values(), ids=BROKEN)
def test_a_broken_point_fails_with_its_numbers(check: Check, words: str) -> None:
    why = check()
    assert why is not None
    assert re.search(words, why), why


def test_every_check_is_planted_both_ways() -> None:
    numbers = {"1", "2", "3a", "3b", "4a", "4b", "5", "6a", "6b", "7", "8", "9", "ceiling"}
    for planted in (SOUND, BROKEN):
        assert {name.partition(",")[0].split()[0] for name in planted} == numbers


def test_an_unknown_precision_is_no_pass() -> None:
    with pytest.raises(KeyError, match="INT3"):
        audit.stored_precision(3.0, "INT3")
