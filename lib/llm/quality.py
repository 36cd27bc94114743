"""What quantisation costs in quality: perplexity, KL divergence and agreement on the next word, against the same engine's 16-bit form.

All forms of all engines see the same token ids, in windows whose first half is context and whose second half is scored, as
llama-perplexity does it (llama.cpp, tools/perplexity/perplexity.cpp). The parent of a form is its own engine's 16-bit form; what those of
two engines differ by is the floor below which the method sees nothing. Refuses to score the text that calibration saw.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lib import child, home, measured, record
from lib.llm.compress import parted
from lib.llm.contender import Contender
from lib.llm.engines.engine import Spec, Unavailable, installed
from lib.llm.fidelity import PARENT, flat, perplexity
from lib.llm.session import Session
from lib.measured import Broke, Found, Skipped
from lib.progress import Progress

WINDOW = 512  # tokens; llama-perplexity's default
FIRST = WINDOW // 2  # the first position whose next token is scored
ENVIRONMENT = {"llama.cpp": "llamacpp", "vLLM": "vllm"}  # where an engine's worker runs


@cache
def windows(tokenizer: Path, count: int) -> npt.NDArray[np.int32]:
    """`count` windows of WINDOW tokens, one after the other from the half of the prose that calibration did not see. Raises ValueError."""
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(tokenizer)(text(), add_special_tokens=False, verbose=False)["input_ids"]
    if len(ids) < count * WINDOW or count < 1:
        raise ValueError(f"{count} windows of {WINDOW} tokens: the text has {len(ids)} tokens, enough for 1 to {len(ids) // WINDOW}")
    return np.array(ids[:count * WINDOW], dtype=np.int32).reshape(count, WINDOW)


def text() -> str:
    """The half of the prose that quality is judged on."""
    return parted((home.INPUTS / "prose.txt").read_text())[0]


def measure(s: Session, rivals: Sequence[Contender], *, count: int) -> None:
    """Score every contender on `count` windows, one point each with its raw tokens beside it; those already scored are kept."""
    if s.model is None or s.here is None:
        return
    texts = windows(s.model.family.hf, count)
    missing = [rival for rival in rivals if s.run.measured(setting(rival)) is None]
    title = f"{s.run.notebook}: judging quality"
    with tempfile.TemporaryDirectory(prefix="quality-") as scratch, Progress(len(missing), title) as progress:
        lent: Path | None = None
        for engine in dict.fromkeys(rival.engine for rival in rivals) if missing else ():
            mine = [rival for rival in rivals if rival.engine is engine]
            judged = _Judged(s, mine, [r for r in mine if r in missing], texts, Path(scratch), lent)
            for rival in [r for r in mine if r in missing]:
                measured.keep(s.run, setting(rival), lambda rival=rival, judged=judged: judged.found(rival), timed=False)  # type: ignore[misc]
                progress.advance(rival.name)
            lent = lent or judged.parent_if_whole()


def setting(rival: Contender) -> dict[str, record.Scalar]:
    return {"what": "quality", "engine": rival.engine.NAME, "precision": rival.precision}


class _Judged:
    """One engine's forms, scored by one worker the first time one of them is asked for."""

    def __init__(self, s: Session, mine: Sequence[Contender], missing: Sequence[Contender], texts: npt.NDArray[np.int32], scratch: Path,
                 other: Path | None) -> None:
        self._s, self._mine, self._missing, self._texts, self._other = s, mine, missing, texts, other
        self._home = scratch / mine[0].engine.NAME
        self._ended: str | None = None

    def found(self, rival: Contender) -> Found:
        """Raises Skipped with the reason why this form cannot be scored here, Broke when its worker broke."""
        spec = self._spec(rival)
        if reason := rival.engine.available():
            raise Skipped(reason)
        if rival.engine.NAME not in ENVIRONMENT:
            raise Skipped(f"{rival.engine.NAME} does not give the probabilities of its whole vocabulary")
        try:
            stored = rival.engine.stored(spec)
        except Unavailable as lacks:
            raise Skipped(str(lacks)) from lacks
        if not self._home.exists():
            self._work()
        scored = self._home / f"{stored}.npz"
        if not scored.exists():
            raise Broke(self._ended or f"the worker left no probabilities of {stored}")
        tokens = flat(np.load(scored))
        facts = {"stored": stored, "windows": len(self._texts), "window_tokens": WINDOW, "scored_tokens": len(tokens), "parent": PARENT,
                 "floor": None if self._other is None else self._other.parent.name}
        own = "the parent differs from itself" if rival.precision == PARENT and tokens["kl"].abs().max() > 0 else None
        negative = f"a divergence of {tokens['kl'].min():.2g} nats" if tokens["kl"].min() < -1e-4 else None
        return Found({}, facts, {"parent": own, "divergence": negative}, {"tokens": tokens})

    def parent_if_whole(self) -> Path | None:
        """Where the log-probabilities of this engine's 16-bit form lie, for another engine to be held against."""
        parent = self._home / "parent.npy"
        return parent if parent.exists() and any(self._home.glob("*f16.npz")) else None

    def _spec(self, rival: Contender) -> Spec:
        assert self._s.model is not None and self._s.here is not None
        return Spec(self._s.model, rival.precision, context=WINDOW + 64, slots=1, threads=self._s.here.threads, device=self._s.device)

    def _work(self) -> None:
        """One process scores the parent and every missing form; what it left is whole, whatever ended it."""
        engine, family = self._mine[0].engine, self._spec(self._mine[0]).model.family
        self._home.mkdir(parents=True)
        forms = []
        for rival in dict.fromkeys([Contender(engine), *self._missing]):
            spec = self._spec(rival)
            try:
                stored = engine.stored(spec)
            except Unavailable:
                continue
            path = family.gguf.get(stored) or family.compressed.get(stored) or family.hf
            forms.append({"name": stored, "path": str(path), "quantization": "fp8" if stored == "fp8" else None})
        np.save(self._home / "windows.npy", self._texts)
        spec = self._spec(Contender(engine))
        job = {"engine": engine.NAME, "windows": str(self._home / "windows.npy"), "first": FIRST, "vocab": spec.model.shape.vocab,
               "threads": spec.threads, "device": spec.device, "forms": forms, "parent": str(self._home / "parent.npy"),
               "other": None if self._other is None else str(self._other), "to": str(self._home)}
        (self._home / "job.json").write_text(json.dumps(job))
        env = {**engine.command(spec, 0).env, "PYTHONPATH": str(home.ROOT), "OMP_NUM_THREADS": str(spec.threads),
               "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        (log := self._s.run.path / "logs").mkdir(exist_ok=True)
        python = installed(ENVIRONMENT[engine.NAME]).tool("python")
        try:
            child.run((python, "-m", "lib.llm.quality_worker", self._home / "job.json"), what=f"{engine.NAME}, probabilities",
                      log=log / f"quality-{ENVIRONMENT[engine.NAME]}.log", say=lambda _: None, cwd=home.ROOT, env=env)
        except child.Failed as failed:
            self._ended = str(failed)


def control(s: Session, *, count: int) -> None:
    """llama-perplexity on the same text, once a run: what it says of the 16-bit form must be what we say of it, to 1 %."""
    if s.model is None or s.here is None:
        return
    model, threads = s.model, s.here.threads

    def ask() -> Found:
        ours = next((p for p in measured.points(s.run, "quality") if (p["engine"], p["precision"]) == ("llama.cpp", PARENT)), None)
        if ours is None:
            raise Skipped("llama.cpp's 16-bit form was not scored, so there is nothing to compare llama-perplexity with")
        mine = perplexity(measured.series(s.run, ours, "tokens"))
        try:
            tool = installed("llamacpp").tool("llama-perplexity")
        except Unavailable as reason:
            raise Skipped(str(reason)) from reason
        with tempfile.TemporaryDirectory(prefix="perplexity-") as scratch:
            (prose := Path(scratch) / "text.txt").write_text(text())
            try:
                command = (tool, "-m", model.family.gguf["f16"], "-f", prose, "--no-escape", "-c", str(WINDOW), "-b", str(WINDOW),
                           "--chunks", str(count), "-t", str(threads), "-fa", "on")
                said = child.run(command, what="llama-perplexity", log=Path(scratch) / "log", say=lambda _: None)
            except child.Failed as failed:
                raise Broke(str(failed)) from failed
        theirs = final_estimate("\n".join(said))
        return Found({}, {"theirs": theirs, "ours": mine, "windows": count}, {"agrees": agrees(mine, theirs)})

    measured.keep(s.run, {"what": "perplexity", "engine": "llama-perplexity", "precision": PARENT}, ask, timed=False)


def final_estimate(said: str) -> float:
    """The perplexity that llama-perplexity ends with. Raises Broke where it ended with none."""
    if not (found := re.search(r"Final estimate: PPL = ([\d.]+)", said)):
        raise Broke(f"llama-perplexity gave no final estimate: {said[-200:]}")
    return float(found[1])


def agrees(ours: float, theirs: float, *, tolerance: float = 0.01) -> str | None:
    """None where the two are one number to `tolerance`, else how far apart they are."""
    off = abs(ours / theirs - 1)
    return None if off <= tolerance else f"our perplexity of {ours:.3f} and llama-perplexity's of {theirs:.3f} differ by {off:.1%}"
