"""The README's results: written from the recorded runs, between two markers, by `./run_all.sh publish` and nobody else."""

from __future__ import annotations

from lib import figures
from lib.llm import latency
from lib.llm.session import session
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
    """The finding in a sentence, then a table: one row an engine, at a prompt of 512 tokens."""
    try:
        s = session("10_llm_latency", profile="quick", mode="recorded")
    except NothingRecorded as reason:
        return f"*{reason}*"
    frame = s.frame()
    table = latency.summary(frame, s.shape(), s.ceilings())
    table = table[table["prompt_tokens"] == 512].sort_values("ttft_ms")
    finding = figures.filled("**{first} answers a {prompt_tokens}-token prompt in {value_ms:.0f} ms, {ratio:.1f}× sooner than {second}** "
                             "(16 bit, 95 % {lo:.1f}–{hi:.1f}, n = {n} each).", **latency.verdict(frame, prompt_tokens=512))
    rows = ["| engine | TTFT, 512 tokens | TPOT | of the matmul ceiling | of the bandwidth ceiling | n |", "|---|--:|--:|--:|--:|--:|"]
    rows += [f"| {r['name']} | {r['ttft_ms']:.0f} ms | {r['tpot_ms']:.1f} ms | {r['mfu']:.0%} | {r['mbu']:.0%} | {r['n']} |"
             for r in table.to_dict("records")]
    absent = [r for r in latency.starts(frame).to_dict("records") if isinstance(r["why not"], str)]
    rows += [f"| {r['engine']} | *not measured: {r['why not']}* | | | | |" for r in absent]
    machine = f"Recorded on `{s.run.machine_id}`, run `{s.run.run_id}`; SmolLM2-135M, one stream, medians."
    return "\n".join([finding, "", *rows, "", machine])
