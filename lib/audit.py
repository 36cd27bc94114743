"""Physics checks: what no honest measurement can break. Each returns None or the sentence for the point.

Pure functions of a point's numbers. A check that lacks its input is not called; none passes by default. Tolerances are
stated where they are used: they cover the noise of the ceiling itself, not the wish to pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

UNSEEN_S = 0.1  # CPU seconds: the kernel counts in ticks of 10 ms, and those who look on take some themselves
AVERAGED_S = 1.0  # NVML's power is the mean of the last second (since Ampere): where the load has just begun or ended it lags behind
SLACK = 0.10  # a measured ceiling is itself uncertain by about this much on a shared machine


def tpot_adds_up(ttft_s: float, last_s: float, tokens: int, first_tokens: int, tpot_s: float) -> str | None:
    """1. The tokens after the first event, each taking TPOT, fill the time from the first event to the last."""
    expected = (last_s - ttft_s) / (tokens - first_tokens)
    if abs(tpot_s - expected) <= 0.01 * expected:
        return None
    return f"TPOT {tpot_s:.6f} s, but (last − first)/(n − k₁) is {expected:.6f} s"


def littles_law(concurrency: float, finished_per_s: float, latency_s: float, *, tolerance: float = 0.1) -> str | None:
    """2. Requests in flight = throughput × latency."""
    implied = finished_per_s * latency_s
    if abs(implied - concurrency) <= tolerance * concurrency:
        return None
    return f"throughput × latency says {implied:.2f} requests in flight, the load held {concurrency:.2f}"


def decode_floor(tpot_s: float, bytes_per_step: float, bandwidth: float, *, cache_bytes: float = 0) -> str | None:
    """3a. A step reads its bytes no faster than memory delivers; what a cache can hold may come for free."""
    floor_s = max(0.0, bytes_per_step - cache_bytes) / bandwidth
    if tpot_s >= floor_s * (1 - SLACK):
        return None
    read = f"reading {bytes_per_step / 1e6:.0f} MB"
    return f"TPOT {tpot_s * 1e3:.2f} ms is below the {floor_s * 1e3:.2f} ms that {read} takes"


def prefill_floor(ttft_s: float, flops: float, rate: float) -> str | None:
    """3b. A prompt is computed no faster than matrices multiply."""
    if ttft_s >= flops / rate * (1 - SLACK):
        return None
    return f"TTFT {ttft_s * 1e3:.2f} ms is below the {flops / rate * 1e3:.2f} ms that {flops / 1e9:.1f} GFLOP take"


def stored_precision(bits_per_weight: float, claimed: str) -> str | None:
    """4a. Weights weigh what the claimed precision implies (scales and unquantised tensors included)."""
    bands = {"16-bit": (15.5, 16.6), "INT8": (7.9, 9.5), "INT4": (4.0, 6.3), "Q4_1": (4.5, 6.6), "Q4_K_M": (4.5, 6.6)}
    low, high = bands[claimed]
    if low <= bits_per_weight <= high:
        return None
    return f"{bits_per_weight:.2f} bits a weight is not {claimed} ({low}–{high})"


def stored_bytes(weights_bytes: float, implied_bytes: float, form: str, *, tolerance: float = 0.02) -> str | None:
    """4a, where a form's bytes follow from the model's shape: weights weigh that much, neither more nor less."""
    off = weights_bytes / implied_bytes - 1
    if abs(off) <= tolerance:
        return None
    return f"{weights_bytes / 1e6:.1f} MB of weights, {form} implies {implied_bytes / 1e6:.1f} ({off:+.0%})"


def batch_ran(running_per_step: float, concurrency: int) -> str | None:
    """4b. The engine's own count of sequences a step shows that requests ran together."""
    if concurrency == 1 or running_per_step >= 0.5 * concurrency:
        return None
    return f"{concurrency} requests were in flight, the engine ran {running_per_step:.1f} a step"


def client_lag(lag_s: Sequence[float], *, budget_s: float) -> str | None:
    """5. The client itself kept up."""
    if not lag_s:
        return "the client's lag was not measured"
    worst = float(np.quantile(lag_s, 0.99))
    if worst <= budget_s:
        return None
    return f"the client lagged {worst * 1e3:.1f} ms (p99), {budget_s * 1e3:g} ms are allowed"


def lengths(output_tokens: Sequence[tuple[int | None, int]], prompt_tokens: Sequence[tuple[int | None, int]]) -> str | None:
    """6a. Every answer is as long as was asked, every prompt as long as was sent: pairs of what the server counted and what was meant."""
    for said, pairs in (("asked for {1} output tokens, got {0}", output_tokens),
                        ("sent {1} prompt tokens, the server counted {0}", prompt_tokens)):
        if odd := sorted({said.format(*pair) for pair in pairs if pair[0] != pair[1]}):
            return "; ".join(odd[:3])
    return None


def prefix_hits(cached_tokens: float, prompt_tokens: float, *, allowed: float = 0.01) -> str | None:
    """6b. Unique prompts were computed, not looked up."""
    share = cached_tokens / prompt_tokens
    return None if share <= allowed else f"{share:.0%} of the prompt tokens came from a prefix cache"


def ttft_agrees(client_s: float, server_s: float, *, tolerance: float = 0.1, floor_s: float = 0.01) -> str | None:
    """7. The client's mean TTFT is the engine's own plus transport, and no less."""
    if -0.002 <= client_s - server_s <= max(floor_s, tolerance * server_s):
        return None
    return f"the client saw a TTFT of {client_s * 1e3:.1f} ms, the engine counted {server_s * 1e3:.1f} ms"


def undisturbed(host: Mapping[str, float | str | None], *, cores: int, share: float = 0.10) -> str | None:
    """8. No throttling, no governor change, nobody else on the processors. `host` is a sampler's summary over the window."""
    if host.get("gpu_throttle"):
        return f"the GPU slowed itself down (reasons {int(float(host['gpu_throttle'] or 0)):#x})"
    if host.get("governor_change"):
        return f"the processors' governor changed: {host['governor_change']}"
    wall, other, steal = host.get("wall_s"), host.get("other_cpu_s"), host.get("steal_s")
    if not isinstance(wall, float) or not wall:
        return "the window was not sampled"
    if not isinstance(other, float):
        return f"what other processes took is not known: {host.get('status') or 'nobody looked'}"
    for what, seconds in (("other processes", other), ("the hypervisor", steal)):
        if isinstance(seconds, float) and seconds > max(UNSEEN_S, share * wall * cores):
            return f"{what} took {seconds / wall / cores:.0%} of the processors"
    return None


def energy_agrees(counter_j: float, power_j: float, *, wall_s: float, tolerance: float = 0.05) -> str | None:
    """9. The energy counter and the integral of the power that was sampled say the same, but for AVERAGED_S of `wall_s`."""
    if abs(counter_j - power_j) <= (tolerance + AVERAGED_S / wall_s) * counter_j:
        return None
    return f"the energy counter says {counter_j:.1f} J, the sampled power {power_j:.1f} J"


def repeats(samples_s: Sequence[float], *, tolerance: float = 0.15) -> str | None:
    """A ceiling is real if it was reached twice: the best of the first half and of the second agree."""
    half = len(samples_s) // 2
    if not half:
        return "one sample is no ceiling"
    first, second = min(samples_s[:half]), min(samples_s[half:])
    off = max(first, second) / min(first, second) - 1
    return None if off <= tolerance else f"the best of the two halves differ by {off:.0%}"
