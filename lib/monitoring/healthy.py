"""A healthy stack at work, as its targets tell it: the world that every proof of an alert begins with, and comes back to.

Rates and shares are those of an ordinary hour, chosen round; all three services are asked, both engines run, a camera looks, a GPU is warm.
Histograms show some of their edges, among them those that objectives name. Refuses nothing: it is a table.
"""

from __future__ import annotations

from lib.monitoring.scenes import World, counter, gauge, histogram, together

RATES = {"fraud": 20.0, "llm": 2.0, "retail": 1.0}  # valid requests a second
OUTCOMES = ("ok", "empty", "client", "refused", "timeout", "unreachable", "server")
FEW = 0.001  # of all requests fail on an ordinary day, each way that there is as often
MODEL = "smollm2-135m"
JOBS = ("gateway", "fraud", "retail", "node", "gpu", "prometheus", "alertmanager")
ENGINES = {"llama.cpp": {"instance": "llm:8081", "job": "llm", "engine": "llama.cpp", "model": MODEL},
           "vLLM": {"instance": "llm:8082", "job": "llm", "engine": "vLLM", "model": MODEL}}  # fmt: skip
FRAUD = {"0.001": 0.1, "0.0022": 0.6, "0.0047": 0.93, "0.01": 0.99, "0.047": 0.998, "0.1": 0.999, "0.22": 1.0, "+Inf": 1.0}
LLM = {"0.001": 0.0, "0.1": 0.0, "0.22": 0.5, "1": 0.95, "2.2": 1.0, "+Inf": 1.0}  # whole answers
FIRST = {"0.1": 0.2, "0.15": 0.7, "0.22": 0.95, "0.33": 0.99, "0.47": 0.996, "1": 0.999, "2.2": 1.0, "+Inf": 1.0}
EACH = {"0.01": 0.1, "0.022": 0.9, "0.047": 0.99, "0.1": 0.999, "0.22": 1.0, "+Inf": 1.0}
AGES = {"0.1": 0.8, "0.25": 0.98, "0.5": 0.999, "1.0": 1.0, "+Inf": 1.0}
SCORES = {"0.001": 0.6, "0.01": 0.9, "0.1": 0.98, "0.5": 0.995, "+Inf": 1.0}
TOKENS = {"input_uncached": 20.0, "input_cached": 28.0, "output": 12.0}  # a request
PRICES = {"input_uncached": 5e-8, "input_cached": 2.5e-8, "output": 2e-7}
CARD = {"gpu": "0", "UUID": "GPU-0", "modelName": "NVIDIA H200"}
CORES, MEMORY_BYTES = 4, 16e9


def at(job: str) -> dict[str, str]:
    """The labels of a job's only target."""
    return {"instance": f"{job}:1", "job": job}


def asked(service: str, outcome: str, share: float) -> World:
    """`share` of a service's valid requests end as `outcome`, few in other ways, the rest ok; what the client did wrong is on top."""
    rate, out = RATES[service], dict.fromkeys(OUTCOMES, FEW / len(OUTCOMES)) | {outcome: share}
    out["ok"] = share if outcome == "ok" else 1 - sum(out[kind] for kind in OUTCOMES if kind not in ("ok", "client"))
    return together(*(counter("gateway_requests_total", rate * n, service=service, outcome=kind, **at("gateway"))
                      for kind, n in out.items()))


def answered(shares: dict[str, float], service: str = "fraud") -> World:
    return histogram("gateway_request_seconds", RATES[service], shares, service=service, **at("gateway"))


def first_tokens(shares: dict[str, float], per_s: float = RATES["llm"]) -> World:
    return histogram("gen_ai_server_time_to_first_token_seconds", per_s, shares, model=MODEL, **at("gateway"))


def each_token(shares: dict[str, float]) -> World:
    return histogram("gen_ai_server_time_per_output_token_seconds", RATES["llm"], shares, model=MODEL, **at("gateway"))


def tokens(per_s: float = RATES["llm"], **a_request: float) -> World:
    """Tokens by type that a request has."""
    return together(*(counter("gen_ai_tokens_total", per_s * n, model=MODEL, type=kind, **at("gateway"))
                      for kind, n in (TOKENS | a_request).items()))


def engines(*, output_per_s: float = RATES["llm"] * TOKENS["output"], running: float = 2, waiting: float = 0, kv: float = 0.4) -> World:
    """Both of them, each as if it were alone."""
    llamacpp, vllm = ENGINES["llama.cpp"], {**ENGINES["vLLM"], "model_name": MODEL, "exported_engine": "0"}
    return together(
        counter("llamacpp:prompt_tokens_total", 40, **llamacpp), counter("llamacpp:prompt_tokens_cached_total", 28, **llamacpp),
        counter("llamacpp:tokens_predicted_total", output_per_s, **llamacpp),
        counter("llamacpp:n_decode_total", 12, **llamacpp), gauge("llamacpp:requests_processing", running, **llamacpp),
        gauge("llamacpp:requests_deferred", waiting, **llamacpp),
        counter("vllm:prompt_tokens_total", 96, **vllm), counter("vllm:prefix_cache_hits_total", 56, **vllm),
        counter("vllm:generation_tokens_total", output_per_s, **vllm), counter("vllm:iteration_tokens_total_count", 12, **vllm),
        gauge("vllm:num_requests_running", running, **vllm), gauge("vllm:num_requests_waiting", waiting, **vllm),
        gauge("vllm:kv_cache_usage_perc", kv, **vllm))  # fmt: skip


def in_flight(llm: float) -> World:
    """The other services have always one."""
    return together(*(gauge("gateway_in_flight", n, service=service, **at("gateway"))
                      for service, n in (("fraud", 1), ("llm", llm), ("retail", 1))))


def frames(*, seen: float = 5, dropped: float = 0, ages: dict[str, float] | None = None) -> World:
    """Of one camera, a second."""
    return together(*(counter("retail_frames_total", rate, camera="door", outcome=outcome, **at("retail"))
                      for outcome, rate in (("seen", seen), ("gated", 0.0), ("dropped", dropped), ("failed", 0.0))),
                    histogram("retail_frame_age_seconds", seen, ages or AGES, **at("retail")))  # fmt: skip


def cameras(**states: float) -> World:
    told = {"running": 1.0} | states
    return together(*(gauge("retail_cameras", told.get(state, 0), state=state, **at("retail"))
                      for state in ("starting", "running", "stalled", "failed", "ended")))  # fmt: skip


def scores(shares: dict[str, float], per_s: float = RATES["fraud"]) -> World:
    return histogram("fraud_probability", per_s, shares, **at("fraud"))


def facts() -> World:
    """What was deployed, and what things cost."""
    here = at("node")
    return together(
        *(gauge("deployment_model_info", 1, service=service, version="v1", **here) for service in ("fraud", "retail")),
        *(gauge("deployment_score_cdf", share, le=edge, **here) for edge, share in SCORES.items()),
        *(gauge("token_price_usd", price, model=MODEL, type=kind, **here) for kind, price in PRICES.items()),
        gauge("machine_price_usd_per_hour", 0.2, **here), gauge("machine_bandwidth_bytes_per_second", 4e10, **here),
        *(gauge("deployment_weights_bytes", 1e8, engine=engine, **here) for engine in ENGINES))  # fmt: skip


def versions(fraud: str = "v1", retail: str = "v1") -> World:
    return together(*(gauge(f"{service}_model_info", 1, version=version, **({"precision": "int8", "licence": "AGPL-3.0"}
                            if service == "retail" else {}), **at(service))
                      for service, version in (("fraud", fraud), ("retail", retail))))  # fmt: skip


def host(*, waiting: float | None = 0.2, idle: float = 0.5, available_bytes: float = 8e9) -> World:
    """`waiting`: the share of time in which somebody waited for a core, None where the kernel does not tell; `idle`: of each core."""
    here = at("node")
    return together(
        *(counter("node_cpu_seconds_total", share, cpu=str(cpu), mode=mode, **here)
          for cpu in range(CORES) for mode, share in (("idle", 0.9 * idle), ("iowait", 0.1 * idle), ("user", 1 - idle), ("system", 0.0))),
        counter("node_pressure_cpu_waiting_seconds_total", waiting, **here),
        gauge("node_memory_MemAvailable_bytes", available_bytes, **here),
        gauge("node_memory_MemTotal_bytes", MEMORY_BYTES, **here))  # fmt: skip


def resident(**jobs: float) -> World:
    """Bytes that a job's process holds."""
    return together(*(gauge("process_resident_memory_bytes", n, **at(job)) for job, n in ({"gateway": 1e8, "retail": 3e8} | jobs).items()))


def card(*, power: float = 0.01, thermal: float = 0) -> World:
    """`power`, `thermal`: the share of time in which it was throttled because of each."""
    here = {**CARD, **at("gpu")}
    gauges = {"DCGM_FI_DEV_GPU_UTIL": 60, "DCGM_FI_DEV_FB_USED": 60_000, "DCGM_FI_DEV_FB_FREE": 80_000, "DCGM_FI_DEV_POWER_USAGE": 400,
              "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": 0.3, "DCGM_FI_PROF_DRAM_ACTIVE": 0.5}
    return together(*(gauge(name, value, **here) for name, value in gauges.items()),
                    counter("DCGM_FI_DEV_POWER_VIOLATION", power * 1e9, **here),
                    counter("DCGM_FI_DEV_THERMAL_VIOLATION", thermal * 1e9, **here))


def up(**jobs: float | None) -> World:
    """1 for every target; what is given for those of a job."""
    return together(*(gauge("up", jobs.get(job, 1), **at(job)) for job in JOBS),
                    *(gauge("up", jobs.get("llm", 1), **labels) for labels in ENGINES.values()))


def stack() -> World:
    """All of it."""
    return together(up(), *(asked(service, "timeout", FEW / len(OUTCOMES)) for service in RATES), answered(FRAUD), answered(LLM, "llm"),
                    first_tokens(FIRST), each_token(EACH), tokens(), engines(), in_flight(2), frames(), cameras(), scores(SCORES), facts(),
                    versions(), host(), resident(), card())


def idle() -> World:
    """The stack when nobody asks: nothing is counted, and machine and camera are there."""
    busy = ("node_cpu", "node_pressure", "DCGM")
    still = together(stack(), engines(output_per_s=0, running=0), in_flight(0))
    return {name: type(level)(0.0, counter=True) if level.counter and not name.startswith(busy) else level for name, level in still.items()}
