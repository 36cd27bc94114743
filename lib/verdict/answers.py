"""The verdict as a reader wants it: rows of tables in Markdown, sentences that follow from them, a frame for a figure.

Pure functions of settled contests and headlines. Refuses to advise where nothing was told apart: such a need gets "take what you know".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from lib.verdict.contest import ALONE, NOTHING, TIE, UNTESTED, WINS, Settled
from lib.verdict.headlines import Headline

NOBODY = "No run of a language model's engine is recorded: there is nothing to choose between."
FORMS = ("bytes", "speed")  # contests between forms, not engines
HEAD = ("you want", "take", "it reaches", "the next", "better by (95 %)", "repeats", "evidence")


def needs(settled: Sequence[Settled], *, notebooks: str = "") -> str:
    """Table 1: a row a need of one machine; `notebooks` is the way to their folder. Engines that did not run have rows that say why."""
    rows = [[one.contest.need, taken(one), _value(one, one.first, one.value), _next(one), better(one), repeats(one),
             links(one.contest.evidence, notebooks)] for one in settled]  # fmt: skip
    return _markdown(HEAD, [*rows, *([f"anything with {name}", f"*not measured: {why}*", "", "", "", "", ""]
                                     for name, why in absent(settled).items())])  # fmt: skip


def everywhere(found: Mapping[str, Sequence[Settled]], machines: Mapping[str, Mapping[str, Any]]) -> str:
    """Table 1 for a notebook: one a machine, the machine above it; or that nothing is recorded."""
    if not found:
        return f"*{NOBODY}*"
    return "\n\n".join(f"On **{described(machines[machine])}** (`{machine}`):\n\n{needs(mine)}" for machine, mine in found.items())


def short(settled: Sequence[Settled], *, notebooks: str) -> str:
    """The same to scan: what you want, what to take, by how much, and the notebook."""
    rows = [[one.contest.need, taken(one), better(one, short=True), links(one.contest.evidence, notebooks, runs=False)] for one in settled]
    rows += [[f"anything with {name}", f"*not measured: {why}*", "", ""] for name, why in absent(settled).items()]
    return _markdown(("you want", "take", "better than the next by (95 %)", "evidence"), rows)


def taken(one: Settled) -> str:
    """The winner; of a tie all that were not told apart, and who was."""
    if one.word == NOTHING:
        return f"*{one.reason}*"
    if one.word in (WINS, ALONE):
        return f"**{one.first}**"
    out = [name for name in one.contest.samples if name not in (one.first, *one.rivals)]
    return " or ".join(map(str, (one.first, *one.rivals))) + (f", not {' or '.join(out)}" if out else "")


def better(one: Settled, *, short: bool = False) -> str:
    """The margin with its interval, or the test that stands for it, or why there is none."""
    if one.margin is None:
        return "–" if one.word == NOTHING else str(one.reason)
    told = _times(one)
    if one.lo is not None and one.hi is not None:
        told += f" ({_end(one.lo)}–{_end(one.hi)})"
    if one.word in (TIE, UNTESTED):
        told += f": {one.word}"
    reason = (one.reason or "").partition("; ")[0] if short else one.reason
    return told + (f"; {reason}" if reason else "")


def repeats(one: Settled) -> str:
    return "–" if not one.n else f"{one.n} {one.contest.repeats}"


def links(evidence: Mapping[str, str], notebooks: str, *, runs: bool = True) -> str:
    """Notebooks by number, each with its run."""
    return ", ".join(f"[{notebook[:2]}]({notebooks}{notebook}.ipynb)" + (f" `{run}`" if runs else "") for notebook, run in evidence.items())


def absent(settled: Iterable[Settled]) -> dict[str, str]:
    """Engines that ran nowhere in these contests, and why."""
    ran = {name.split(" ")[0] for one in settled for name in one.contest.samples}
    return {name: why for one in settled for name, why in one.contest.absent.items() if " " not in name and name not in ran}


def left_out(settled: Iterable[Settled]) -> pd.DataFrame:
    """Who is not in a contest, and why, a row each; who is in none of them has one row."""
    told = list(settled)
    missed: dict[tuple[str, str], list[str]] = {}
    for one in told:
        for pair in one.contest.absent.items():
            missed.setdefault(pair, []).append(one.contest.need)
    rows = [{"who": name, "is not asked for": "anything" if len(lost) == len(told) else "; ".join(dict.fromkeys(lost)), "for": why}
            for (name, why), lost in missed.items()]  # fmt: skip
    return pd.DataFrame(rows, columns=["who", "is not asked for", "for"])


def elsewhere(published: pd.DataFrame, settled: Iterable[Settled]) -> pd.DataFrame:
    """Others' published figures (`published.latency`) of the engines that ran nowhere here: never beside a number of ours."""
    names = tuple(absent(list(settled)))
    return published[[any(row.startswith(name) for name in names) for row in published["engine"]]]


def headline(settled: Sequence[Settled], where: str) -> str:
    """How many needs each engine wins there, in a sentence."""
    asked = [one for one in settled if one.contest.key not in FORMS and one.word != NOTHING]
    if not asked:
        return f"on {where} nothing was recorded that tells engines apart"
    told = []
    for name in _winners(asked):
        mine = sorted((one for one in asked if one.word == WINS and one.first == name), key=lambda one: -(one.margin or 0))
        told.append(f"{name} wins {len(mine)} ({'first of all ' if len(mine) > 1 else ''}{mine[0].contest.need}, {_times(mine[0])})")
    unsettled, lone = (sum(one.word in words for one in asked) for words in ((TIE, UNTESTED), (ALONE,)))
    left = [f"the repeats tell nobody apart in {unsettled}"] if unsettled else []
    left += [f"only one was measured for {lone}"] if lone else []
    return f"of {len(asked)} needs on {where} {', '.join([*told, *left])}"


def guide(settled: Sequence[Settled], where: str) -> list[str]:
    """What to take there, in plain sentences: one a winner, one of what is not told apart, one of forms, one of who is not in it."""
    engines, forms = ([one for one in settled if (one.contest.key in FORMS) == quantised] for quantised in (False, True))
    said = [f"On {where} take {name} if you want " + _listed(_won(engines, name)) for name in _winners(engines)]
    if tied := [f"{one.contest.need} ({taken(one)})" for one in engines if one.word in (TIE, UNTESTED)]:
        said.append(f"The repeats tell nobody apart, so take what you know, for {_listed(tied)}")
    for name in dict.fromkeys(one.first for one in engines if one.word == ALONE):
        alone = _listed([one.contest.need for one in engines if one.word == ALONE and one.first == name])
        said.append(f"Only {name} was measured for {alone}: it is compared with nobody")
    said += [f"Of the quantised forms take {name} for {_listed(_won(forms, name))}" for name in _winners(forms)]
    said += [f"Of {name} nothing can be said: {why}" for name, why in absent(settled).items()]
    return [f"{sentence}." for sentence in said] or [f"On {where} nothing was recorded that could advise."]


def _won(settled: Iterable[Settled], name: str) -> list[str]:
    return [f"{one.contest.need} ({_times(one)})" for one in settled if one.word == WINS and one.first == name]


def forest(found: Mapping[str, Sequence[Settled]]) -> pd.DataFrame:
    """A row a need that has a margin, for a figure: `need`, `winner`, `margin`, `lo`, `hi`, `told` (whether apart)."""
    several, settled = len(found) > 1, [one for mine in found.values() for one in mine]
    rows = [{"need": one.contest.need + (f", {one.contest.machine_id}" if several else ""), "winner": one.first,
             "second": one.second, "margin": one.margin, "lo": one.lo, "hi": one.hi,
             "told": one.word == WINS} for one in settled if one.margin is not None]  # fmt: skip
    return pd.DataFrame(rows, columns=["need", "winner", "second", "margin", "lo", "hi", "told"])


def forested(frame: pd.DataFrame) -> str:
    """What the forest shows, as its title."""
    if frame.empty:
        return "Nothing was recorded twice: there are no margins"
    told = int(frame["told"].sum())
    return f"{told} of {len(frame)} needs have a winner; where a bar reaches 1 the repeats tell nobody apart"


def parts(told: Sequence[Headline], titles: Mapping[str, str], *, notebooks: str = "", runs: bool = True) -> str:
    """Table 2: a row a notebook. `titles`: notebook → the question that it asks."""
    rows = []
    for one in told:
        link = f"[{titles.get(one.notebook, one.notebook)}]({notebooks}{one.notebook}.ipynb)"
        where = "–" if one.run is None else f"`{one.run.run_id}` on `{one.run.machine_id}`"
        found = f"*{one.text}*" if one.run is None else one.text
        rows.append([link, found, one.known if one.run else "–", *([where] if runs else [])])
    return _markdown(("part", "what was found", "how it is known", *(["recorded as run … on …"] if runs else [])), rows)


def described(environment: Mapping[str, Any]) -> str:
    """A machine in words: "2 processors without a GPU"."""
    gpus = environment["gpus"]
    with_ = f"with {len(gpus)} × {gpus[0]['name']}" if gpus else "without a GPU"
    return f"{environment['threads']} processors {with_}"


def _winners(settled: Iterable[Settled]) -> list[str]:
    """Who wins anything, who wins most first."""
    won = [one.first for one in settled if one.word == WINS and one.first is not None]
    return sorted(dict.fromkeys(won), key=lambda name: -won.count(name))


def _value(one: Settled, name: str | None, value: float | None) -> str:
    if name is None or value is None:
        return "–"
    return ("at least " if name in one.contest.open_ended else "") + one.contest.told.format(value)


def _next(one: Settled) -> str:
    return "–" if one.second is None else f"{one.second}, {_value(one, one.second, one.second_value)}"


def _times(one: Settled) -> str:
    """A margin; of loads, which are few and far apart, no digits that nobody measured."""
    return f"{one.margin:.3g}×" if one.contest.met is not None else f"{_end(one.margin or 0)}×"


def _end(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def _listed(words: Sequence[str]) -> str:
    """ "a, b or c"."""
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, [":--"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
