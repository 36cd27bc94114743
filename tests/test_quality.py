"""Quality is a number of tokens, windows and blocks that can be checked by hand; a worker's arithmetic is the textbook's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import child, install
from lib.llm import compress, fidelity, quality, quality_worker, weights
from lib.measured import Broke


def tokens(logprobs: np.ndarray, **more: np.ndarray) -> pd.DataFrame:
    still = np.zeros(logprobs.shape)
    return quality.flat({"logprob": logprobs, "top": still, "kl": still, "parent_top": still, **more})


def test_log_softmax_and_divergence_are_the_textbooks() -> None:
    p, q = np.log([[0.5, 0.25, 0.25]]), np.log([[0.25, 0.5, 0.25]])
    assert quality_worker.log_softmax(p + 300) == pytest.approx(p, abs=1e-4)  # logits know no zero, and overflow nothing
    assert quality_worker.divergence(p, q) == pytest.approx([0.5 * np.log(2) + 0.25 * np.log(0.5)])
    assert quality_worker.divergence(p, p).tolist() == [0.0]


@given(st.lists(st.floats(-30, 30), min_size=2, max_size=20))
def test_probabilities_sum_to_one(logits: list[float]) -> None:
    assert np.exp(quality_worker.log_softmax(np.array([logits]))).sum() == pytest.approx(1, abs=1e-4)


def test_a_job_scores_the_second_half_against_the_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two windows of 5 words from a vocabulary of 4; positions 2 and 3 are scored, each on the word after it."""
    windows = np.array([[0, 1, 2, 3, 1], [3, 2, 1, 0, 2]], dtype=np.int32)
    sure = np.zeros((2, 2, 6), dtype=np.float32)  # an engine may pad its vocabulary
    for place, window in enumerate(windows):
        sure[place, [0, 1], window[3:]] = 2.0
    answers = {"parent": sure, "child": sure / 2}
    monkeypatch.setattr(quality_worker, "llamacpp", lambda form, *_: iter(answers[form["name"]]))
    np.save(tmp_path / "windows.npy", windows)
    job = {"engine": "llama.cpp", "windows": str(tmp_path / "windows.npy"), "first": 2, "vocab": 4, "threads": 1, "device": "cpu",
           "forms": [{"name": "parent", "path": ""}, {"name": "child", "path": ""}], "parent": str(tmp_path / "p.npy"), "other": None,
           "to": str(tmp_path)}
    assert [done["form"] for done in quality_worker.score(job)] == ["parent", "child"]
    parent, quantised = (quality.flat(np.load(tmp_path / f"{name}.npz")) for name in ("parent", "child"))
    one, half = np.exp(2) / (np.exp(2) + 3), np.exp(1) / (np.exp(1) + 3)
    assert fidelity.perplexity(parent) == pytest.approx(1 / one, rel=1e-5)
    assert parent["kl"].tolist() == [0.0] * 4
    assert quantised["kl"].tolist() == pytest.approx([one * np.log(one / half) + (1 - one) * np.log((1 - one) / (1 - half))] * 4, rel=1e-4)
    assert quantised["top"].tolist() == quantised["parent_top"].tolist() == [3, 1, 0, 2]
    again = {**job, "forms": job["forms"][:1], "other": job["parent"], "parent": str(tmp_path / "p2.npy")}
    list(quality_worker.score(again))
    assert quality.flat(np.load(tmp_path / "parent.npz"))["other_kl"].tolist() == [0.0] * 4


def test_logits_of_another_shape_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality_worker, "llamacpp", lambda *_: iter([np.zeros((3, 4))]))
    np.save(tmp_path / "windows.npy", np.zeros((1, 5), dtype=np.int32))
    job = {"engine": "llama.cpp", "windows": str(tmp_path / "windows.npy"), "first": 2, "vocab": 4, "threads": 1, "device": "cpu",
           "forms": [{"name": "f16", "path": ""}], "parent": str(tmp_path / "p.npy"), "other": None, "to": str(tmp_path)}
    with pytest.raises(ValueError, match=r"f16: logits of \(3, 4\), not of \(2, 4\)"):
        list(quality_worker.score(job))


def test_a_form_is_judged_against_its_parent() -> None:
    rng = np.random.default_rng(1)
    parent = -rng.exponential(2, (4, 255))
    child_ = tokens(parent - 0.1, kl=np.full((4, 255), 0.05), top=np.tile([1.0, 0, 0], (4, 85)))
    told = fidelity.judged(child_, tokens(parent))
    assert told["n"] == 1020
    assert told["ppl_ratio"] == pytest.approx(np.exp(0.1))
    assert [told["ppl_ratio_lo"], told["ppl_ratio_hi"]] == pytest.approx([np.exp(0.1)] * 2)  # paired: what is hard for both cancels
    assert told["top1"] == pytest.approx(2 / 3)
    assert told["ppl"] == pytest.approx(np.exp(-(parent - 0.1).mean()))
    assert told["ppl_lo"] < told["ppl"] < told["ppl_hi"]
    assert "floor_kl" not in told
    other = tokens(parent, other_kl=np.full((4, 255), 0.001), other_top=np.zeros((4, 255)))
    assert fidelity.judged(other, None)["floor_kl"] == pytest.approx(1e-3)


def test_blocks_are_neighbours_and_few_of_them_carry_no_interval() -> None:
    one = tokens(np.arange(510, dtype=float).reshape(2, 255))
    assert fidelity.blocks(one, one["logprob"]).tolist() == [25 + 51 * i for i in range(10)]
    assert fidelity.interval(one, one["logprob"]).lo is not None
    few = tokens(np.zeros((1, 255)))
    assert fidelity.interval(few, few["logprob"]).lo is None
    short = tokens(np.zeros((1, 60)))
    assert len(fidelity.blocks(short, short["logprob"])) == 1  # 9 tokens of the window are left out


def test_calibration_never_sees_what_quality_is_judged_on() -> None:
    ours, theirs = compress.parted("one\n\ntwo\n\nthree")
    assert (ours, theirs) == ("one\n\ntwo", "\n\nthree")
    seen = compress.parted((quality.home.INPUTS / "prose.txt").read_text())[1]
    assert abs(len(quality.text()) - len(seen)) < 1000
    assert not {piece for piece in seen.split("\n\n") if len(piece) > 200} & set(quality.text().split("\n\n"))


def test_a_scheme_fits_its_matrices() -> None:
    assert compress.scheme("w4a16", [576, 1536])["weights"]["group_size"] == 64
    assert compress.scheme("w4a16", [4096])["weights"]["group_size"] == 128
    assert compress.scheme("w8a8", [7])["input_activations"]["dynamic"]
    for name, columns in (("w4a16", [7]), ("w2a2", [128])):
        with pytest.raises(ValueError, match="no scheme"):
            compress.scheme(name, columns)


def test_llama_perplexity_is_read_and_must_agree() -> None:
    assert quality.final_estimate("[1]4.7464,[2]8.6530,\n1.00.617.010 I Final estimate: PPL = 8.4068 +/- 0.47355") == 8.4068
    with pytest.raises(Broke, match="no final estimate: out of memory"):
        quality.final_estimate("out of memory")
    assert quality.agrees(8.45, 8.4068) is None
    assert "differ by 3.9%" in str(quality.agrees(8.7365, 8.4068))


def test_the_workers_give_llama_perplexitys_number(tmp_path: Path) -> None:
    """Our worker's perplexity of two windows and llama-perplexity's, both by the real engine."""
    try:
        family, engine = weights.family(), install.find("llamacpp")
    except weights.NotReady as reason:
        pytest.skip(str(reason))
    if isinstance(engine, install.Missing):
        pytest.skip(engine.reason)
    np.save(tmp_path / "windows.npy", quality.windows(family.hf, 1))
    job = {"engine": "llama.cpp", "windows": str(tmp_path / "windows.npy"), "first": quality.FIRST, "vocab": 49152, "threads": 1,
           "device": "cpu", "forms": [{"name": "q8_0", "path": str(family.gguf["q8_0"])}], "parent": str(tmp_path / "p.npy"),
           "other": None, "to": str(tmp_path)}
    (tmp_path / "job.json").write_text(json.dumps(job))
    (tmp_path / "text.txt").write_text(quality.text()[:8000])
    env = {"PYTHONPATH": str(quality.home.ROOT)}
    worker = (engine.tool("python"), "-m", "lib.llm.quality_worker", tmp_path / "job.json")
    child.run(worker, what="worker", log=tmp_path / "log", say=print, env=env)
    theirs = (engine.tool("llama-perplexity"), "-m", family.gguf["q8_0"], "-f", tmp_path / "text.txt", "--no-escape", "-c", "512",
              "-b", "512", "--chunks", "1", "-t", "1", "-fa", "on")
    said = child.run(theirs, what="llama-perplexity", log=tmp_path / "log", say=print)
    ours = fidelity.perplexity(quality.flat(np.load(tmp_path / "q8_0.npz")))
    assert quality.agrees(ours, quality.final_estimate("\n".join(said))) is None


@pytest.mark.parametrize(("flags", "there"), [("avx2 avx512_bf16", True), ("avx2 amx_bf16", True), ("avx2 avx512f avx512_bf16x", False)])
def test_a_processor_that_multiplies_in_bf16_says_so(tmp_path: Path, flags: str, there: bool) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: fpu {flags} vme\nbugs\t\t: bf16\n")
    assert compress.multiplies_bf16(tmp_path / "cpuinfo") is there
