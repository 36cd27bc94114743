"""The tools we compare with: how each is installed, asked for the same load, and read. Nothing here measures.

Every number that comes out is the tool's own, by the tool's own definition (README.md says how those map onto ours).
Refuses a run in which a request failed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lib import install
from lib.home import ROOT, cache
from tests.peers import cpu

PINS = Path(__file__).with_name("peers.toml")


@dataclass(frozen=True, slots=True)
class Load:
    """What every tool is asked for: `warmup` requests that do not count, then `requests` that do, `streams` at once."""

    streams: int
    requests: int
    prompt_tokens: int
    output_tokens: int

    @property
    def warmup(self) -> int:
        return self.streams


@dataclass(frozen=True, slots=True)
class Target:
    """The server that is asked. `ours` is the body our client sends, but for the prompt; `theirs` are the fields beyond
    OpenAI's that the other tools are told to add. `tokenizer` is a directory."""

    engine: str
    port: int
    model: str
    tokenizer: Path
    ours: dict[str, Any]
    theirs: dict[str, Any]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass(frozen=True, slots=True)
class Reported:
    """What a tool says it saw: one entry a measured request, and its own summary. Seconds, tokens and tokens/s."""

    ttft_s: tuple[float, ...]
    tpot_s: tuple[float, ...]
    prompt_tokens: tuple[int, ...]
    ttft_median_s: float
    ttft_p99_s: float
    tpot_median_s: float
    tok_per_s: float


@dataclass(frozen=True, slots=True)
class Peer:
    """One tool: its name with version, its command for a load, and how its result is read."""

    name: str
    command: Callable[[Target, Load, Path], list[str]]
    read: Callable[[Load, Path], Reported]
    offline: bool = True  # False: it mistakes a local tokenizer for a hub's when told to stay offline


class Absent(RuntimeError):
    """A tool that is not there, and why."""


class Failed(RuntimeError):
    """A tool that did not bring a result, and why."""


NAMES = ("ours", "vllm", "guidellm", "aiperf")


def peer(name: str) -> Peer:
    """The tool of that name, installed where needed. Raises Absent with the reason, KeyError for others."""
    if name == "ours":
        return Peer(name, _ours, _read_ours)
    pin = tomllib.loads(PINS.read_text())[name]
    if name == "vllm":
        if isinstance(found := install.find(pin["engine"]), install.Missing):
            raise Absent(found.reason)
        program, version = found.tool("vllm"), found.version
    else:
        program, version = _venv(name, pin) / name, pin["version"]
    arguments, read = {"vllm": (_vllm, _read_vllm), "guidellm": (_guidellm, _read_guidellm),
                       "aiperf": (_aiperf, _read_aiperf)}[name]
    return Peer(f"{pin['title']} {version}", lambda *asked: [str(program), *arguments(*asked)], read, name != "aiperf")


def ask(tool: Peer, target: Target, load: Load) -> tuple[Reported, cpu.Watched]:
    """Run the tool once. Raises Failed with what it said last; nothing of it stays behind."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        try:
            watched = cpu.watch(tool.command(target, load, out), log=out / "log", timeout_s=300, env=_environment(tool))
            if watched.status:
                last = watched.output.strip()[-300:].replace(scratch, "…")
                raise Failed(f"it ended with status {watched.status}: {last}")
            return tool.read(load, out), watched
        except subprocess.TimeoutExpired as error:
            raise Failed("it was not done after 300 s") from error
        except (OSError, KeyError) as error:
            raise Failed(f"its result cannot be read: {error!r}".replace(scratch, "…")) from error


def _environment(peer: Peer) -> dict[str, str]:
    """What a tool sees of ours: no proxies, no hub, its threads not multiplied."""
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and k != "HF_HUB_OFFLINE"}
    return {**kept, "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false", "NO_COLOR": "1", "COLUMNS": "200",
            **({"HF_HUB_OFFLINE": "1"} if peer.offline else {})}


def byte_tokenizer() -> Path:
    """A tokenizer of 258 tokens for servers without one: bytes, and " a" (the null server's token) as one piece."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    home = cache() / "peers" / "byte-tokenizer"
    vocabulary = {piece: i for i, piece in enumerate([*sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġa", "</s>"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("Ġ", "a")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    home.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(home / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "pad_token": "</s>"}
    (home / "tokenizer_config.json").write_text(json.dumps(config))
    return home


def _venv(name: str, pin: dict[str, Any]) -> Path:
    """The programs of a peer's own environment, made on first use and anew when the pins change."""
    home = cache() / "peers" / f"{name}-{pin['version']}"
    proof = home / "pins.json"
    if not proof.exists() or json.loads(proof.read_text()) != pin["pip"]:
        shutil.rmtree(home, ignore_errors=True)
        print(f"{name} {pin['version']}: installing, once for this machine", flush=True)
        for command in ([sys.executable, "-m", "venv", home], [home / "bin" / "pip", "install", "-q", *pin["pip"]]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise Absent(f"{name} could not be installed: {done.stderr.strip()[-500:]}")
        proof.write_text(json.dumps(pin["pip"]))
    return home / "bin"


def _ours(target: Target, load: Load, out: Path) -> list[str]:
    result = str(out / "ours.json")
    task = {"engine": target.engine, "port": target.port, "body": target.ours, **asdict(load), "result": result}
    (out / "task.json").write_text(json.dumps(task))
    return [sys.executable, "-m", "tests.peers.ours", str(out / "task.json")]


def _read_ours(load: Load, out: Path) -> Reported:
    return Reported(**json.loads((out / "ours.json").read_text()))


def _vllm(target: Target, load: Load, out: Path) -> list[str]:
    body = ["--extra-body", json.dumps(target.theirs)] if target.theirs else []
    return ["bench", "serve", "--backend", "openai", "--base-url", target.url, "--endpoint", "/v1/completions",
            "--model", target.model, "--tokenizer", str(target.tokenizer), "--dataset-name", "random",
            "--random-input-len", str(load.prompt_tokens), "--random-output-len", str(load.output_tokens),
            "--num-prompts", str(load.requests), "--num-warmups", str(load.warmup),
            "--max-concurrency", str(load.streams), "--ignore-eos", "--disable-tqdm",
            "--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,99",
            "--seed", str(random.randrange(2**31)), "--save-result", "--save-detailed", "--result-dir", str(out),
            "--result-filename", "vllm.json", *body]


def _read_vllm(load: Load, out: Path) -> Reported:
    said = json.loads((out / "vllm.json").read_text())
    if said["failed"]:
        raise Failed(f"vllm bench serve: {said['failed']} requests failed")
    tpots = [sum(gaps) / (n - 1) for gaps, n in zip(said["itls"], said["output_lens"], strict=True) if n > 1]
    return Reported(tuple(said["ttfts"]), tuple(tpots), tuple(said["input_lens"]), said["median_ttft_ms"] / 1e3,
                    said["p99_ttft_ms"] / 1e3, said["median_tpot_ms"] / 1e3, said["output_throughput"])


def _guidellm(target: Target, load: Load, out: Path) -> list[str]:
    backend = {"kind": "openai_http", "target": target.url, "model": target.model, "request_format": "/v1/completions",
               **({"extras": {"body": target.theirs}} if target.theirs else {})}
    return ["run", "--backend", json.dumps(backend),
            "--profile", f"kind=concurrent,streams={load.streams},warmup={load.warmup}",
            "--constraint", f"kind=max_requests,count={load.warmup + load.requests}",
            "--tokenizer", f"kind=huggingface_auto,model={target.tokenizer}",
            "--data", f"kind=synthetic_text,prompt_tokens={load.prompt_tokens},output_tokens={load.output_tokens}",
            "--output", f"kind=json,path={out / 'guidellm.json'}", "--disable-console"]


def _read_guidellm(load: Load, out: Path) -> Reported:
    said = json.loads((out / "guidellm.json").read_text())["benchmarks"][0]
    metrics, requests = said["metrics"], said["requests"]
    if requests["errored"]:
        raise Failed(f"guidellm: {len(requests['errored'])} requests failed")
    done = sorted(requests["successful"], key=lambda r: r["request_start_time"])[load.warmup :]
    ttft, itl = (metrics[name]["successful"] for name in ("time_to_first_token_ms", "inter_token_latency_ms"))
    return Reported(tuple(r["time_to_first_token_ms"] / 1e3 for r in done),
                    tuple(r["inter_token_latency_ms"] / 1e3 for r in done),
                    tuple(r["prompt_tokens"] for r in done),
                    ttft["median"] / 1e3, ttft["percentiles"]["p99"] / 1e3, itl["median"] / 1e3,
                    metrics["output_tokens_per_second"]["successful"]["mean"])


def _aiperf(target: Target, load: Load, out: Path) -> list[str]:
    body = [part for key, value in target.theirs.items() for part in ("--extra-inputs", f"{key}:{json.dumps(value)}")]
    return ["profile", "--model", target.model, "--url", target.url, "--endpoint-type", "completions", "--streaming",
            "--concurrency", str(load.streams), "--request-count", str(load.requests),
            "--warmup-request-count", str(load.warmup), "--random-seed", str(random.randrange(2**31)),
            "--prompt-input-tokens-mean", str(load.prompt_tokens), "--prompt-input-tokens-stddev", "0",
            "--prompt-output-tokens-mean", str(load.output_tokens), "--prompt-output-tokens-stddev", "0",
            "--tokenizer", str(target.tokenizer), "--use-server-token-count", "--ui", "none", "--no-server-metrics",
            "--no-gpu-telemetry", "--output-artifact-dir", str(out / "aiperf"), *body]


def _read_aiperf(load: Load, out: Path) -> Reported:
    said = json.loads((out / "aiperf" / "profile_export_aiperf.json").read_text())
    lines = map(json.loads, (out / "aiperf" / "profile_export.jsonl").read_text().splitlines())
    rows = [line["metrics"] for line in lines if line["metadata"]["benchmark_phase"] == "profiling"]
    if failed := said["error_summary"]:
        raise Failed(f"aiperf: {failed}")
    return Reported(tuple(r["time_to_first_token"]["value"] / 1e3 for r in rows),
                    tuple(r["inter_token_latency"]["value"] / 1e3 for r in rows),
                    tuple(r["usage_prompt_tokens"]["value"] for r in rows),
                    said["time_to_first_token"]["p50"] / 1e3, said["time_to_first_token"]["p99"] / 1e3,
                    said["inter_token_latency"]["p50"] / 1e3, said["output_token_throughput"]["avg"])

