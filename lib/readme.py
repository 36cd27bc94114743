"""The README's results: written from the recorded runs, between two markers, by `./run_all.sh publish` and nobody else.

First the verdict (which engine, then a line a part), then every part in more numbers. Refuses a text without its markers.
"""

from __future__ import annotations

from typing import Any

from lib import figures
from lib.images import views as image_views
from lib.llm import batching, breakdown, capacity, fidelity, latency, prefix, quantization, readings, saturation, throughput, ways
from lib.llm.metrics import INTERACTIVE, SERVER
from lib.llm.session import session
from lib.monitoring import accounts, trials
from lib.monitoring import findings as monitoring
from lib.monitoring.session import session as monitoring_session
from lib.pipelines.cost import allocation_views, beyond_views, ledger_views, money_views, prices
from lib.pipelines.cost.session import session as cost_session
from lib.pipelines.fraud import findings, load_views, views
from lib.pipelines.fraud.session import session as fraud_session
from lib.pipelines.retail import findings as retail_findings
from lib.pipelines.retail import load_views as retail_load
from lib.pipelines.retail import views as retail_views
from lib.pipelines.retail.session import session as retail_session
from lib.profiling import batch_views, everywhere
from lib.profiling import findings as profiling
from lib.profiling import views as profiling_views
from lib.profiling.session import Notebook
from lib.profiling.session import session as profiling_session
from lib.session import NothingRecorded
from lib.verdict import answers, headlines, needs
from lib.verdict.headlines import UTILISED
from lib.verdict.speaking import Speaking
from lib.vision import labels

PROFILED: tuple[Notebook, Notebook] = ("30_profile_layers", "31_profile_batch")
BEGIN, END = "<!-- results: written by ./run_all.sh publish -->", "<!-- end of results -->"


def renewed(text: str) -> str:
    """`text` with what stands between the markers replaced. Raises ValueError when a marker is missing."""
    return between(text, BEGIN, results(), END, name="README.md")


def between(text: str, begin: str, body: str, end: str, *, name: str) -> str:
    """`text` with `body` between the markers `begin` and `end`. Raises ValueError when one is missing."""
    head, found, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{name} lacks its markers {begin} … {end}")
    return f"{head}{begin}\n\n{body}\n\n{end}{tail}"


def results() -> str:
    """Which engine, what each part found, and each part in more numbers, in the order of the notebooks."""
    speaking = Speaking()
    found, machines = needs.settled(speaking), needs.environments(speaking)
    advice = [f"- {sentence}" for machine, mine in found.items() for sentence in answers.guide(mine, answers.described(machines[machine]))]
    tables = [f"Recorded on `{machine}`:\n\n{answers.short(mine, notebooks='notebooks/')}" for machine, mine in found.items()]
    parts = answers.parts(headlines.headlines(speaking), headlines.questions(), notebooks="notebooks/", runs=False)
    more = "<summary><b>Each part in more numbers, with the runs behind them</b></summary>"
    return "\n\n".join(["### Which engine?", "\n".join(advice) or f"*{answers.NOBODY}*", *tables, INTERVALS, "### What each part found",
                        parts, "<details>", more, *_details(), "</details>"])  # fmt: skip


INTERVALS = ("Engines serve the same 16-bit weights. A repeat is a round in which all were asked in turn, or a run; intervals are "
             "Student's over repeats, so wider than those below that pool requests; where one holds 1 nobody wins. How: "
             "[90](notebooks/90_verdict.ipynb).")  # fmt: skip


def _details() -> list[str]:
    """Each part's table; a part of which nothing is recorded says so."""
    parts = []
    for title, part in (("Fraud detection: a verdict in time", _fraud), ("Smart retail: cameras on one machine", _retail),
                        ("What a million predictions cost", _cost), ("LLM engines: the first answer", _llm),
                        ("LLM engines: load, memory, precision, batching", _llm_served),
                        ("Monitoring: noticed, and how fast", _monitoring), ("Profiling: the layer, the roof, the batch", _profiling)):
        try:
            found = part()
        except (NothingRecorded, image_views.NothingRecorded) as reason:
            found = f"*{reason}*"
        parts.append(f"#### {title}\n\n{found}")
    return parts


def _fraud() -> str:
    """The service's numbers: in process, over HTTP, under too much load."""
    s = fraud_session(profile="quick", mode="recorded")
    steps, ways, loads = views.ladder(s), views.ways(s), load_views.loads(s)
    fields, room = findings.extremes(steps), load_views.capacity(loads)
    paths = findings.bytes_in(ways)
    lines = (
        ("score one row, pipeline as shipped (pandas, scikit-learn)", "{first:,.0f} µs", fields),
        ("score one row, best way found ({best_name})", "{best:.1f} µs, {times:,.0f}× less", fields),
        ("score in batches, one core ({batch_name})", "{batch:,.0f} rows/s", fields),
        ("bytes to answer in process, without and with history and log", "{bare:.1f} and {whole:.1f} µs", paths),
        ("decided within 10 ms at p99 over HTTP, one core, refusals counted as misses", "up to {sustained:,.0f} a second", room),
        (
            "goodput left at {times:.1f}× that; with clients that heed refusals",
            "{left:.0%} ({left_lo:.0%}–{left_hi:.0%}); {polite:.0%} ({polite_lo:.0%}–{polite_hi:.0%})",
            room,
        ),
    )
    rows = ["| what | measured |", "|---|--:|"]
    rows += [f"| {figures.filled(what, **known)} | {figures.said(value, **known)} |" for what, value, known in lines]
    return "\n".join([*rows, "", f"Recorded on `{s.run.machine_id}`, run `{s.run.run_id}`; medians."])


def _retail() -> str:
    """The pipeline's numbers: clip to event, accuracy, cameras, the service."""
    s, truth = retail_session(profile="quick", mode="recorded"), labels.load()
    nets, walks, dense = retail_views.variants(s, truth), retail_views.ways(s, truth), retail_load.densities(s)
    head = retail_findings.headline(nets, walks, dense)
    plain, soaked = retail_findings.unchanged(walks, truth), retail_findings.soaked(retail_load.soak(s))
    counted, trap = retail_findings.counts(walks, truth), retail_findings.trap(nets)
    lines = (
        ("from clip to event, every frame looked at ({way})", "{fps:.0f} frames/s, {times:.1f}× ultralytics' predict loop", head),
        ("the same at float32", "{times:.1f}× ({times_lo:.1f}–{times_hi:.1f})", plain),
        ("where {active:.0%} of the frames show anybody, gated by motion", "{quiet:.0f}× ({quiet_lo:.0f}–{quiet_hi:.0f})", plain),
        ("F1 of its people against float32", "{f1:.3f}", head),
        ("crossings of a line, of {crossings} by hand: float32; INT8 at 512×384", "{fp32}; {small}", counted),
        ("people found once the head is quantised too, of {there}", "{trap}", trap),
        ("memory of the service over {minutes:.0f} minutes, three cameras", "{mb_per_min:+.2f} MB a minute ({lo:.2f} to {hi:.2f})", soaked),
    )
    rows = ["| what | measured |", "|---|--:|"]
    rows += [f"| {figures.said(what, **known)} | {figures.said(value, **known)} |" for what, value, known in lines]
    return "\n".join([*rows, "", f"Recorded on `{s.run.machine_id}`, run `{s.run.run_id}`; medians over rounds."])


def _cost() -> str:
    """What each lever is worth at the SLA-feasible load: forms, images, limits, Ray."""
    s, built = cost_session(profile="quick", mode="recorded"), image_views.images().headline()
    falls = {service: money_views.steps(s, service, money_views.tariff(), UTILISED) for service in money_views.SERVICES}
    head = money_views.headline(falls, UTILISED)
    gain, fall, ray = ledger_views.headline(s), allocation_views.fallen(allocation_views.cliff(s)), beyond_views.overhead(s)
    fraud, retail = (allocation_views.factor(s, service) for service in money_views.SERVICES)
    lines: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("with the framework that the model was made in, nothing tuned", "{fraud_times:.1f}× and {retail_times:.1f}× the dollars", head),
        ("{model} on one thread, {framework} → {form}", "{from_ms:.2g} → {to_ms:.2g} ms, {times:.1f}× ({lo:.1f}–{hi:.1f})", gain),
        ("ONNX Runtime as it comes, against the framework as it is", "{fraud_first:.1f}× and {retail_first:.2f}× the dollars",
         money_views.as_it_comes(falls)),
        ("transactions a processor carries: right-sized against a spinning thread a processor", "{times:.1f}× ({lo:.1f}–{hi:.1f})", fraud),
        ("frames a processor carries: the same", "{times:.1f}× ({lo:.1f}–{hi:.1f})", retail),
        ("half a processor carries, of the transactions that a whole one does", "{share:.0%} ({lo:.0%}–{hi:.0%})",
         allocation_views.halved(s, "fraud")),
        ("a picture at a limit of {cpus:g} processor: one thread; {threads} that spin", "{one:.0f} ms; {spinning:.0f} ms", fall),
        ("image of the fraud service: everything in it; without shell", "{fraud_fat_mb:,.0f} MB; {fraud_distroless_mb:,.0f} MB", built),
        ("image of the retail service: the same", "{retail_fat_mb:,.0f} MB; {retail_distroless_mb:,.0f} MB", built),
        ("CPU that Ray Serve adds to a request", "{added_us:,.0f} µs ({added_us_lo:,.0f}–{added_us_hi:,.0f})", ray),
    )  # fmt: skip
    rows = ["| what | measured |", "|---|--:|"]
    rows += [f"| {figures.said(what, **known)} | {figures.said(value, **known)} |" for what, value, known in lines]
    listed = f"{prices.VCPU} and its memory, us-east-1, on demand, as of {prices.priced(prices.VCPU).as_of}"
    where = f"Recorded on `{s.run.machine_id}`, run `{s.run.run_id}`; medians over rounds. Prices: {listed}."
    return "\n".join([*rows, "", where])


def _llm() -> str:
    """One row an engine, at a prompt of 512 tokens."""
    s = session("10_llm_latency", profile="quick", mode="recorded")
    frame = s.frame()
    table = latency.summary(frame, s.shape(), s.ceilings())
    table = table[table["prompt_tokens"] == 512].sort_values("ttft_ms")
    rows = ["| engine | TTFT, 512 tokens | TPOT | of the matmul ceiling | of the bandwidth ceiling | n |", "|---|--:|--:|--:|--:|--:|"]
    rows += [
        f"| {r['name']} | {r['ttft_ms']:.0f} ms | {r['tpot_ms']:.1f} ms | {r['mfu']:.0%} | {r['mbu']:.0%} | {r['n']} |"
        for r in table.to_dict("records")
    ]
    absent = [r for r in latency.starts(frame).to_dict("records") if isinstance(r["why not"], str)]
    rows += [f"| {r['engine']} | *not measured: {r['why not']}* | | | | |" for r in absent]
    machine = f"Recorded on `{s.run.machine_id}`, run `{s.run.run_id}`; SmolLM2-135M, one stream, medians."
    return "\n".join([*rows, "", machine])


def _llm_served() -> str:
    """A table of the four notebooks on serving: what saturates, what fits, what fewer bits buy, what batching gains."""
    rows = ["| what | measured |", "|---|--:|"]
    for part in (_load, _memory, _precision, _batching):
        try:
            rows += [f"| {figures.said(what, **known)} | {figures.said(value, **known)} |" for what, value, known in part()]
        except NothingRecorded as reason:
            rows.append(f"| *{reason}* | |")
    return "\n".join([*rows, "", "SmolLM2-135M at 16 bit where nothing else is said; every ratio formed inside one run on one machine."])


def _load() -> list[tuple[str, str, dict[str, Any]]]:
    s = session("11_llm_throughput", profile="quick", mode="recorded")
    cells = throughput.cells(s)
    plan = throughput.PLANS[s.run.parameters["profile"]]
    work = throughput.fixed(plan.prompt_tokens, plan.output_tokens)
    lines = [(f"tokens a second of all users, {work} tokens", "{first} {tok_s:.0f} at {streams:.0f} streams; {second} {second_tok_s:.0f}",
              saturation.verdict(cells))]
    for name, slo in (("Server", SERVER), ("Interactive", INTERACTIVE)):
        sentence, fields = readings.carried(cells, slo, work=work)
        lines.append((f"users within the {name} SLO", sentence, fields))
    hidden = readings.hidden(saturation.omission(cells))
    what = "above capacity: the median user's wait for a first token, as a client that counts from sending reports it"
    return [*lines, (what, "{times:.1f}× too short", hidden)]


def _memory() -> list[tuple[str, str, dict[str, Any]]]:
    points = session("12_llm_memory", profile="quick", mode="recorded").frame()
    return [
        ("weights and KV cache, predicted from the shape, against the engines' own words", "within {worst:.1%}, {compared} comparisons",
         breakdown.verdict(points)),
        ("layouts of a full cache whose predicted number of users was the edge when provoked", "{right} of {layouts}",
         capacity.verdict(points)),
        ("a prefix cache, {prefix_tokens} of {prompt_tokens} prompt tokens known ({engine})", "{ratio:.1f}× sooner ({lo:.1f}–{hi:.1f})",
         prefix.verdict(points)),
    ]  # fmt: skip


def _precision() -> list[tuple[str, str, dict[str, Any]]]:
    s = session("13_llm_quantization", profile="quick", mode="recorded")
    cells = throughput.cells(s)
    told, ratios = quantization.table(cells, s.frame(), fidelity.table(s)), quantization.speedups(cells)
    return [
        ("INT8 against 16 bit, one stream ({engine})", "{ratio:.2f}× the tokens/s ({lo:.2f}–{hi:.2f}), {top1:.1%} of the words the same",
         quantization.verdict(told, ratios, machine_id=s.run.machine_id)),
        ("four bits that are slower than 16 ({who})", "{times:.2f}× ({lo:.2f}–{hi:.2f})", quantization.slower(ratios)),
    ]  # fmt: skip


def _batching() -> list[tuple[str, str, dict[str, Any]]]:
    s = session("14_llm_batching", profile="quick", mode="recorded")
    size = max(batching.PLANS[s.run.parameters["profile"]].sizes)
    return [("continuous batching against {over}, {size} at a time ({engine})", "{ratio:.2f}× the tokens/s ({lo:.2f}–{hi:.2f})",
             ways.verdict(s.frame(), size=size))]  # fmt: skip


def _monitoring() -> str:
    """What stands around the drill: forecasts, controls, percentiles, bill, mutants, what watching costs."""
    s = monitoring_session(profile="quick", mode="recorded")
    told, bill = monitoring.courses(s), accounts.bill(s)
    head = monitoring.headline(told)
    lines: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("faults of {kinds} kinds, in random order, whose right alert came first", "{first_hits} of {first_n}", head),
        ("alerts that came when the forecast said, within a scrape and an evaluation", "{due_hits} of {due_n} ({due_lo:.0%}–{due_hi:.0%})",
         head),
        ("controls (nothing, idle, load step, deploy) that raised an alarm", "{false_alarms} of {controls}", head),
        ("largest error of {n} percentiles from our buckets", "{worst:.1%}", accounts.worst(accounts.told(s))),
        ("the bill from counters against the request log; with cached tokens counted twice", "{counters:+.2%}; {naive:+.0%}",
         accounts.billed(bill)),
        ("mutants of rules and dashboards that the tests catch", "{hits} of {n}", trials.caught(trials.mutants(s))),
        ("all that watches, of what runs", "{share:.0%} of the processors' time, {memory_mb:,.0f} MB",
         monitoring.watching(monitoring.watchers(s))),
    )  # fmt: skip
    rows = ["| what | measured |", "|---|--:|"]
    rows += [f"| {figures.said(what, **known)} | {figures.said(value, **known)} |" for what, value, known in lines]
    where = f"Recorded on `{s.run.machine_id}`, run `{s.run.run_id}`; a drill's five minutes last two seconds."
    return "\n".join([*rows, "", where])


def _profiling() -> str:
    """Where a pass goes, what the profile foretold, what engines and batches bring."""
    s, swept = (profiling_session(notebook, profile="quick", mode="recorded") for notebook in PROFILED)
    found, forms = profiling_views.ledgers(s, "resnet50"), profiling_views.forms(s)
    head = {**profiling.accounts(profiling_views.closes(s, "resnet50")), **profiling.outside(found)}
    lines: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("accounts of ResNet-50 that close within 2 % of an unwatched pass", "{close} of {n}", head),
        ("batch norms of an eager ResNet-50 pass; layouts changed in it", "{norms:.0%}; {reorder_n} times", head),
        ("changes foretold from the profile before they were measured", "{n} to {networks}, median error {median:.0%}",
         profiling.foretold(profiling_views.everything_predicted(s))),
        ("ResNet-50 against eager float32: float32, bf16, INT8", "{fp32_times:.1f}×, {bf16_times:.1f}×{how}, {INT8_times:.1f}×",
         {**profiling.fastest(forms), "how": "" if profiling.in_hardware(s.run.environment["isa"]) else " (emulated)"}),
        *((f"the same on `{other['machine']}`, run `{other['run']}`", "{fp32, ×:.1f}×, {bf16, ×:.1f}×, {INT8, ×:.1f}×",
           {str(name): value for name, value in other.items()}) for other in everywhere.layers(s).iloc[1:].to_dict("records")),
        ("first classes kept by trained weights: bf16, INT8 (EfficientNet-Lite0)", "{bf16:.1%}, {INT8:.1%}", profiling.right(forms)),
        ("what a batch buys at most, and at least", "{times:.1f}× ({form}), {least:.2f}× ({least_form})",
         batch_views.gain(swept, "resnet50")),
        ("lines that foretell batches they did not see within 5 %", "{within} of {n}",
         batch_views.held(batch_views.lines(swept, "resnet50"))),
    )  # fmt: skip
    rows = ["| what | measured |", "|---|--:|"]
    rows += [f"| {what} | {figures.said(value, **known)} |" for what, value, known in lines]
    where = "; ".join(f"{part} on `{run.machine_id}`, run `{run.run_id}`" for part, run in (("Layers", s.run), ("batches", swept.run)))
    return "\n".join([*rows, "", f"{where}; medians."])
