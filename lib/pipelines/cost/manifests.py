"""What the recorded run advises, written into the Kubernetes manifests: requests, limits, options, and what the autoscaler aims at.

Each `deploy/kubernetes/NAME.yaml.in` holds all that is decided, with gaps for what is measured; `NAME.yaml` is the two together, committed,
and never edited by hand. Refuses advice that no scheduler could keep: a limit below its request, no rate, a service without a template.

    python -m lib.pipelines.cost.manifests [--write]     says whether the manifests are up to date, or writes them
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from math import ceil, isfinite
from pathlib import Path
from string import Template

from lib import home
from lib.pipelines.cost import sizing
from lib.pipelines.cost.advice import Advice
from lib.pipelines.cost.session import session
from lib.session import NothingRecorded

PLACE = home.ROOT / "deploy" / "kubernetes"
AIM = 0.7  # of what a replica carries within its SLA: the rest is for what comes while another one starts
HEADER = """\
# Written by `python -m lib.pipelines.cost.manifests --write` from {template} and {origin}:
# change those, not this."""
_WHY = dict.fromkeys(("cpu", "memory", "threads", "replicas"), "PLACEHOLDER: nothing is recorded yet")
# What the manifests hold until a run is recorded: plausible, and marked as what they are.
PLACEHOLDERS = {
    "fraud": Advice("fraud", 1.0, None, 192 << 20, 256 << 20, {"--engine": "onnx", "--threads": "1"}, 10_000, "99 % in 10 ms", _WHY),
    "retail": Advice("retail", 1.0, None, 512 << 20, 768 << 20, {"--engine": "onnxruntime", "--threads": "1"}, 30, "frames in time", _WHY),
}


class BadAdvice(ValueError):
    """Advice that cannot be written into a manifest; the message says which and why."""


def recorded() -> tuple[str, Mapping[str, Advice]] | None:
    """Which recorded run advises, and what; None while there is none. Raises LookupError for one that says nothing of this."""
    try:
        s = session(profile="quick", mode="recorded")
    except NothingRecorded:
        return None
    return f"run {s.run.run_id}", sizing.advice(s)


def manifests(advice: Mapping[str, Advice], *, origin: str) -> dict[Path, str]:
    """File → text, one for each template. Raises BadAdvice."""
    templates = {path.name.removesuffix(".yaml.in"): path for path in sorted(PLACE.glob("*.yaml.in"))}
    if templates.keys() != advice.keys():
        raise BadAdvice(f"there are templates for {', '.join(templates)}, and advice for {', '.join(advice)}")
    return {path.with_suffix(""): filled(path, advice[name], origin=origin) for name, path in templates.items()}


def filled(template: Path, advice: Advice, *, origin: str) -> str:
    """The template with what is advised in its gaps. Raises BadAdvice."""
    if not (isfinite(advice.per_s) and advice.per_s > 0):
        raise BadAdvice(f"{advice.service}: a replica that carries {advice.per_s}/s cannot be scaled")
    target = max(1, int(AIM * advice.per_s))
    why = {f"why_{name}": sentence.replace("\n", " ") for name, sentence in advice.why.items()}
    return Template(template.read_text(encoding="utf-8")).substitute(
        why, header=HEADER.format(template=template.name, origin=origin), resources=_resources(advice), options=_options(advice.options),
        target=target, why_target=f"{AIM:.0%} of the {advice.per_s:,.0f}/s that a replica carries within its SLA ({advice.sla})",
    )  # fmt: skip


def _resources(advice: Advice) -> str:
    limits = {} if advice.cpu_limit is None else {"cpu": _cpu(advice.cpu_limit)}
    if advice.memory_limit_bytes < advice.memory_request_bytes or (advice.cpu_limit or advice.cpu_request) < advice.cpu_request:
        raise BadAdvice(f"{advice.service}: a limit is below its request: {advice}")
    requests = {"cpu": _cpu(advice.cpu_request), "memory": _memory(advice.memory_request_bytes)}
    return json.dumps({"requests": requests, "limits": {**limits, "memory": _memory(advice.memory_limit_bytes)}})


def _cpu(processors: float) -> str:
    return f"{ceil(processors * 1000)}m"


def _memory(size: int) -> str:
    return f"{ceil(size / 2**20)}Mi"


def _options(options: Mapping[str, str]) -> str:
    """As further items of a YAML list: quoted, so that 1 and true stay words. A flag has an empty value."""
    words = [word for name, value in options.items() for word in (name, value) if word]
    return "".join(f", {json.dumps(word)}" for word in words)


def main() -> None:
    parser = argparse.ArgumentParser(description="The Kubernetes manifests from the recorded run.")
    parser.add_argument("--write", action="store_true", help="write them")
    write = parser.parse_args().write
    origin, advice = recorded() or ("PLACEHOLDERS, for nothing is recorded yet", PLACEHOLDERS)
    texts = manifests(advice, origin=origin)
    stale = [path for path, text in texts.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if write:
        for path in stale:
            path.write_text(texts[path], encoding="utf-8")
    print(f"{origin}: {', '.join(path.name for path in stale) or 'nothing'} {'written' if write else 'out of date'}")
    sys.exit(bool(stale) and not write)


if __name__ == "__main__":
    main()
