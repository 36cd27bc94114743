"""The README's results: written from the recorded runs, between two markers, by `./run_all.sh publish` and nobody else."""

from __future__ import annotations

from lib import figures
from lib.llm import latency
from lib.llm.session import session
from lib.pipelines.fraud import findings, load_views, views
from lib.pipelines.fraud.session import session as fraud_session
from lib.session import NothingRecorded

BEGIN, END = "<!-- results: written by ./run_all.sh publish -->", "<!-- end of results -->"


def renewed(text: str) -> str:
    """`text` with what stands between the markers replaced. Raises ValueError when a marker is missing."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md lacks its markers {BEGIN} … {END}")
    return f"{head}{BEGIN}\n\n{results()}\n\n{END}{tail}"


def results() -> str:
    """What each part found, in the order of the notebooks; a part of which nothing is recorded says so."""
    parts = []
    for title, part in (("Fraud detection: a verdict in time", _fraud), ("LLM engines: the first answer", _llm)):
        try:
            found = part()
        except NothingRecorded as reason:
            found = f"*{reason}*"
        parts.append(f"### {title}\n\n{found}")
    return "\n\n".join(parts)


def _fraud() -> str:
    """The service in a sentence, then its numbers: in process, over HTTP, under too much load."""
    s = fraud_session(profile="quick", mode="recorded")
    steps, ways, loads = views.ladder(s), views.ways(s), load_views.loads(s)
    fields, room = findings.extremes(steps), load_views.capacity(loads)
    head, paths = findings.headline(ways, load_views.target(loads)), findings.bytes_in(ways)
    finding = figures.filled(
        "**From bytes to a logged decision in {p50:.0f} µs; over HTTP one core answers {rate:,.0f} transactions a second with a p99 "
        "of {target_p99:.2f} ms**, counted from when each was due (Poisson arrivals).",
        **head,
    )
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
    return "\n".join([finding, "", *rows, "", f"Recorded on `{s.run.machine_id}`, run `{s.run.run_id}`; medians."])


def _llm() -> str:
    """The finding in a sentence, then a table: one row an engine, at a prompt of 512 tokens."""
    s = session("10_llm_latency", profile="quick", mode="recorded")
    frame = s.frame()
    table = latency.summary(frame, s.shape(), s.ceilings())
    table = table[table["prompt_tokens"] == 512].sort_values("ttft_ms")
    finding = figures.filled(
        "**{first} answers a {prompt_tokens}-token prompt in {value_ms:.0f} ms, {ratio:.1f}× sooner than {second}** "
        "(16 bit, 95 % {lo:.1f}–{hi:.1f}, n = {n} each).",
        **latency.verdict(frame, prompt_tokens=512),
    )
    rows = ["| engine | TTFT, 512 tokens | TPOT | of the matmul ceiling | of the bandwidth ceiling | n |", "|---|--:|--:|--:|--:|--:|"]
    rows += [
        f"| {r['name']} | {r['ttft_ms']:.0f} ms | {r['tpot_ms']:.1f} ms | {r['mfu']:.0%} | {r['mbu']:.0%} | {r['n']} |"
        for r in table.to_dict("records")
    ]
    absent = [r for r in latency.starts(frame).to_dict("records") if isinstance(r["why not"], str)]
    rows += [f"| {r['engine']} | *not measured: {r['why not']}* | | | | |" for r in absent]
    machine = f"Recorded on `{s.run.machine_id}`, run `{s.run.run_id}`; SmolLM2-135M, one stream, medians."
    return "\n".join([finding, "", *rows, "", machine])
