"""What every other notebook found, in one sentence with its number, how it is known, and where it is recorded.

The sentences are filled from the same functions as the notebooks' own claims. Refuses to quote what was not measured: a part of which
nothing is recorded is a row that says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from lib import figures, home
from lib.images import views as image_views
from lib.llm import (
    batch_readings,
    batching,
    breakdown,
    calibration,
    capacity,
    cost_readings,
    dollars,
    fidelity,
    latency,
    quantization,
    recorded,
    saturation,
    throughput,
    ways,
)
from lib.monitoring import findings as monitoring
from lib.pack import readings as gpu
from lib.pipelines.cost import allocation_views, money_views
from lib.pipelines.fraud import findings as fraud
from lib.pipelines.fraud import load_views as fraud_loads
from lib.pipelines.fraud import views as fraud_views
from lib.pipelines.retail import findings as retail
from lib.pipelines.retail import load_views as retail_loads
from lib.pipelines.retail import views as retail_views
from lib.profiling import batch_views
from lib.profiling import findings as profiling
from lib.profiling import views as profiling_views
from lib.record import Run
from lib.session import NothingRecorded
from lib.verdict.speaking import Speaking, alone, piped
from lib.vision import labels

UTILISED = 0.5  # as notebook 03 has it unless told otherwise
Fields: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Headline:
    """A part's finding: `sentence` with its `fields`; `known` says how it is known. Where nothing is recorded `run` is None: `reason`."""

    notebook: str
    known: str
    sentence: str = ""
    fields: Mapping[str, Any] | None = None
    run: Run | None = None
    reason: str | None = None

    @property
    def text(self) -> str:
        return self.reason or figures.said(self.sentence, **(self.fields or {}))


def headlines(speaking: Speaking, *, only: Collection[str] = ()) -> list[Headline]:
    """One of each notebook (or of those in `only`), in reading order; of the newest run that speaks."""
    told = []
    for notebook, source, known, sentence, found in PARTS:
        if only and notebook not in only:
            continue
        try:
            run = speaking.newest(source)
            told.append(Headline(notebook, known, sentence, found(run), run))
        except (NothingRecorded, image_views.NothingRecorded) as reason:
            told.append(Headline(notebook, known, reason=str(reason)))
    return told


def questions() -> dict[str, str]:
    """Notebook → its title, "10 · Which LLM engine answers first?"."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"] for path in home.NOTEBOOKS.glob("[0-9]*.ipynb")}
    return {stem: "".join(source).partition("\n")[0].removeprefix("# ").strip() for stem, source in sorted(found.items())}


def _client(run: Run) -> Fields:
    errors = calibration.summary(run.frame())
    streams = [n for n in errors["streams"] if n <= 64] if len(errors) else []
    return calibration.row(errors, streams=max(streams)) if streams else {}


def _fraud(run: Run) -> Fields:
    s = piped(run)
    target = fraud_loads.target(fraud_loads.loads(s))
    return {**fraud.headline(fraud_views.ways(s), target), **fraud.extremes(fraud_views.ladder(s))}


def _retail(run: Run) -> Fields:
    s, truth = piped(run), labels.load()
    nets, walks, dense = retail_views.variants(s, truth), retail_views.ways(s, truth), retail_loads.densities(s)
    return {**retail.headline(nets, walks, dense), "processors": run.environment["threads"]}


def _priced(run: Run) -> Fields:
    s = piped(run)
    falls = {service: money_views.steps(s, service, money_views.tariff(), UTILISED) for service in money_views.SERVICES}
    best = {f"{service}_factor": allocation_views.factor(s, service) for service in money_views.SERVICES}
    return {**money_views.headline(falls, UTILISED), **best}


def _latency(run: Run) -> Fields:
    points = run.frame().assign(origin="recorded")
    longest = max((int(n) for n in latency.requests(points)["prompt_tokens"] if n <= 512), default=0)
    return latency.verdict(points, prompt_tokens=longest)


def _throughput(run: Run) -> Fields:
    return saturation.verdict(throughput.cells(alone(run)))


def _memory(run: Run) -> Fields:
    points = alone(run).frame()
    return {**breakdown.verdict(points), **capacity.verdict(points)}


def _precision(run: Run) -> Fields:
    s = alone(run)
    cells = throughput.cells(s)
    told, ratios = quantization.table(cells, s.frame(), fidelity.table(s)), quantization.speedups(cells)
    slower = quantization.slower(ratios)
    tail = figures.said("; four bits can be slower: {who} takes {times:.2f}× as long as its 16-bit parent ({lo:.2f}–{hi:.2f})", **slower)
    return {**quantization.verdict(told, ratios, machine_id=run.machine_id), "slower": tail if slower else "",
            **{f"slower_{key}": value for key, value in slower.items()}}  # fmt: skip


def _batching(run: Run) -> Fields:
    found = ways.verdict(alone(run).frame(), size=max(batching.PLANS[run.parameters["profile"]].sizes))
    return {**found, "gain": figures.said(batch_readings.headline(found), **found)} if found else {}


def _dollars(run: Run) -> Fields:
    cells = throughput.cells(alone(run))
    plan = throughput.PLANS[run.parameters["profile"]]
    fitted, work = recorded.together(recorded.paces(cells)), throughput.fixed(plan.prompt_tokens, plan.output_tokens)
    try:
        hourly = dollars.hours(run, cells["contender"].unique())
    except LookupError:  # nobody lists a price of this GPU
        return {}
    return cost_readings.headline(dollars.bills(cells, fitted, hourly, work=work, utilisation=1.0))


def _drilled(run: Run) -> Fields:
    return monitoring.headline(monitoring.courses(piped(run)))


def _layers(run: Run) -> Fields:
    s = piped(run)
    guessed = {f"guess_{key}": value for key, value in profiling.foretold(profiling_views.everything_predicted(s)).items()}
    return {**profiling.outside(profiling_views.ledgers(s, "resnet50")), **guessed}


def _batches(run: Run) -> Fields:
    s = piped(run)
    held = {f"held_{key}": value for key, value in batch_views.held(batch_views.lines(s, "resnet50")).items()}
    return {**batch_views.gain(s, "resnet50"), **held}


def _boxed(run: Run) -> Fields:
    s = alone(run)
    return gpu.verdict(s, gpu.served(s))


# Notebook, the notebook whose run speaks, how it is known, what is said, and what fills it.
PARTS: tuple[tuple[str, str, str, str, Callable[[Run], Fields]], ...] = (
    ("00_method", "00_method", "a server of known delays; an engine against itself; a planted error",
     "at {streams} streams the client's median TTFT is {ttft_error_ms:+.2f} ms off the truth (95 % {lo_ms:+.2f} to {hi_ms:+.2f}, n = {n}), "
     "its median TPOT {tpot_error_ms:+.3f} ms", _client),
    ("01_fraud_pipeline", "01_fraud_pipeline", "284,807 real transactions; latency from when each was due",
     "from bytes to a logged decision in {p50:.0f} µs (p99 {p99:.0f} µs); over HTTP one core answers {rate:,.0f} transactions a second "
     "with a p99 of {target_p99:.2f} ms, and a row is scored {times:,.0f}× faster ({best_name}) than by the pipeline as shipped", _fraud),
    ("02_retail_pipeline", "02_retail_pipeline", "real footage, labelled by hand; rounds in turn",
     "{processors} processors keep up with {streams} cameras at 15 frames a second by Intel's rule, with {strict} if events must be out "
     "within 200 ms (p99) and counts right to 10 %; {times:.1f}× ultralytics' loop ({times_lo:.1f}–{times_hi:.1f}) at an F1 of {f1:.3f}",
     _retail),
    ("03_pipeline_cost", "03_pipeline_cost", "one lever at a time, at the load within the SLA",
     "a million card transactions cost ${fraud_usd:.5f}, a million camera frames ${retail_usd:.2f}, within the SLA and {utilisation:.0%} "
     "utilised; right-sized threads carry {fraud_factor[times]:.1f}× (95 % {fraud_factor[lo]:.1f}–{fraud_factor[hi]:.1f}) the transactions "
     "of the defaults", _priced),
    ("10_llm_latency", "10_llm_latency", "same weights, one client, engines in turn; a physics audit",
     "{first} answers a {prompt_tokens}-token prompt in {value_ms:.0f} ms, {ratio:.1f}× sooner than {second} (16 bit; 95 % "
     "{lo:.1f}–{hi:.1f}, n = {n} requests each)", _latency),
    ("11_llm_throughput", "11_llm_throughput", "closed and open loops; every token's stamp is kept",
     "{first} writes {tok_s:.0f} tokens a second at {streams:.0f} streams, {ratio:.1f}× what {second} reaches at its best "
     "({lo:.1f}–{hi:.1f}, {rounds} rounds)", _throughput),
    ("12_llm_memory", "12_llm_memory", "arithmetic against the engines' logs; edges provoked",
     "weights and KV cache are predicted from the shape to {worst:.1%} of what engines allocate ({compared} comparisons); the predicted "
     "number of users was the edge in {right} of {layouts} layouts", _memory),
    ("13_llm_quantization", "13_llm_quantization", "same token ids, each form against its own engine's 16 bit",
     "{precision} in {engine} is {smaller:.1f}× smaller and {ratio:.2f}× as fast a token (95 % {lo:.2f}–{hi:.2f}, n = {n}) with {top1:.1%} "
     "of the words the same{slower}", _precision),
    ("14_llm_batching", "14_llm_batching", "the same requests in every way; places' time adds up",
     "{gain}; of its places' time {waste_over:.0%} is wasted in {over}, {waste_continuous:.0%} continuously", _batching),
    ("15_llm_cost", "11_llm_throughput", "computed from 11's stamps; simulation held against unseen loads",
     "a million tokens cost {blended:.2g} {currency} with {first} ({blended_lo:.2g}–{blended_hi:.2g}): {input:.2g} for input, {output:.2g} "
     "for output, within the Server SLO (n = {n} requests)", _dollars),
    ("20_monitoring", "20_monitoring", "forecast before each fault; a witness beside Prometheus",
     "{detected_hits} of {detected_n} injected faults raised the right alert (95 % {detected_lo:.0%}–{detected_hi:.0%}), {due_hits} of "
     "{due_n} when the forecast said; {false_alarms} of {controls} controls raised an alarm", _drilled),
    ("30_profile_layers", "30_profile_layers", "accounts held against an unwatched pass; forecasts first",
     "of an eager ResNet-50 pass {arithmetic:.0%} is convolutions' arithmetic, {reorders:.0%} lays tensors out anew; {guess_n} changes "
     "were foretold with a median error of {guess_median:.0%}", _layers),
    ("31_profile_batch", "31_profile_batch", "fitted on some sizes, tried on others",
     "a batch buys {times:.2f}× at most on a processor ({form}), {least:.2f}× at least ({least_form}); lines foretell unseen sizes within "
     "5 % in {held_within} of {held_n} sweeps", _batches),
    ("40_gpu", "40_gpu", "8B shape, random weights; limits measured on the same card",
     "on one {device} a stream of {first} runs at {reached:.0%} of the measured memory bandwidth, {one:.0f} tokens a second; {users} users "
     "of {most} get {tok_s:,.0f}, {share:.0%} of what that load could have", _boxed),
)  # fmt: skip
