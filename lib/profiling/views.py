"""Tables of notebook 30: what the record says, in readers' units. Pure, but for reading series that lie beside the points."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd

from lib import stats
from lib.measured import points, series
from lib.profiling import accounts, ledger, networks, onednn, predictions, ranking, roofline, trace
from lib.profiling import layers as of_layers
from lib.profiling.forms import TRAINED, speeds
from lib.profiling.predictions import Prediction
from lib.profiling.roofline import Roof
from lib.profiling.session import Session

WAYS = {"bare": "nobody looks", "profiler": "torch.profiler, operators", "whole": "torch.profiler, scopes of modules and shapes",
        "hooks": "two stamps a module", "onednn": "a line of oneDNN for each primitive"}  # fmt: skip


def point(s: Session, what: str, network: str, **more: Any) -> dict[str, Any] | None:
    """The point of a network, None where it was not measured or did not pass."""
    wanted = {"network": network, **more}
    return next((p for p in points(s.run, what) if all(p.get(key) == value for key, value in wanted.items())), None)


def bare_us(s: Session, network: str) -> float | None:
    """A pass that nobody looks at, µs: the median."""
    return accounts.bare_us(s, network)


def frame(s: Session, network: str) -> pd.DataFrame | None:
    """The trace of a network."""
    return None if (told := point(s, "traced", network)) is None else series(s.run, told, "trace")


def ledgers(s: Session, network: str) -> dict[str, pd.DataFrame]:
    """Account → part, n, us, share of the unwatched time, the last row what it does not explain. Those that were measured."""
    return accounts.eager(s, network) | accounts.engines(s, network)


def shown(told: pd.DataFrame | None) -> pd.DataFrame:
    """An account in print: its parts in ms, those of less than a thousandth together."""
    if told is None:
        return pd.DataFrame()
    small = (told["share"].abs() < 0.001) & (told.index < len(told) - 2)
    rest = pd.DataFrame([{"part": f"{small.sum()} smaller ones", "n": told.loc[small, "n"].sum(), "us": told.loc[small, "us"].sum(),
                          "share": told.loc[small, "share"].sum()}]) if small.any() else pd.DataFrame()  # fmt: skip
    whole = pd.concat([told[~small].iloc[:-2], rest, told.iloc[-2:]], ignore_index=True)
    times = ["–" if pd.isna(n) else f"{n:.0f}" for n in whole["n"]]
    return pd.DataFrame({"part": whole["part"], "times": times, "ms": whole["us"] / 1e3, "of a pass": whole["share"].map(_percent)})


def modules(s: Session, network: str) -> pd.DataFrame:
    """module, whole_us: medians over passes, in the order of computing; modules are named as by `staged`."""
    seen = frame(s, network)
    if seen is None:
        return pd.DataFrame(columns=["module", "whole_us"])
    told = trace.modules(seen).groupby("module", sort=False)["whole_us"].median().reset_index()
    return told.assign(module=told["module"].map(staged))


def closes(s: Session, network: str) -> pd.DataFrame:
    """A row an account: what it comes to, what a pass takes unwatched, by how much watching made it longer, and should have by what it
    costs apart, which was taken off; what is not explained."""
    rows, longer = [], accounts.watching(s, network)
    for name, told in ledgers(s, network).items():
        whole = float(told["us"].sum())
        off = ledger.unexplained(told)
        engine = name if name in accounts.ENGINES else "PyTorch, eager"
        adds, apart = longer[name]
        rows.append({"account": name, "of": engine, "adds up to, ms": (whole - float(told["us"].iloc[-1])) / 1e3,
                     "unwatched, ms": whole / 1e3, "watching adds": f"{adds.value:+.1%}",
                     "95 %": None if adds.lo is None else f"{adds.lo:+.1%} to {adds.hi:+.1%}",
                     "taken off": f"{apart:.1%}", "not explained": f"{off:+.1%}", "closes": abs(off) <= ledger.TOLERANCE})  # fmt: skip
    return pd.DataFrame(rows)


def looking(s: Session, network: str) -> pd.DataFrame:
    """What looking costs: a row a way, ms, the interval, × the unwatched."""
    if (told := point(s, "traced", network)) is None:
        return pd.DataFrame()
    bare = accounts.flat(told["samples"]["bare_s"])
    rows = []
    for way, said in WAYS.items():
        taken = accounts.flat(told["samples"].get(f"{way}_s", []))
        middle, times = stats.median(taken), stats.ratio(taken, bare)
        if middle and times:
            rows.append({"looked at by": said, "ms": middle.value * 1e3, "lo": _ms(middle.lo), "hi": _ms(middle.hi), "×": times.value})
    return pd.DataFrame(rows)


def pages(s: Session, network: str) -> pd.DataFrame:
    """A row a way of looking: pages that a pass touches first (the system has to find and empty them), what they take, of a pass."""
    told, bare = point(s, "traced", network), bare_us(s, network)
    if told is None or bare is None or "faults" not in told["facts"]:
        return pd.DataFrame()
    each_us = accounts.page_us(told)
    touched = {way: round(float(np.median(told["facts"]["faults"][way]))) for way in WAYS}
    return pd.DataFrame([{"looked at by": WAYS[way], "pages": n, "µs each": each_us, "ms": n * each_us / 1e3, "share": n * each_us / bare}
                         for way, n in touched.items()])  # fmt: skip


def layers(s: Session, network: str) -> pd.DataFrame:
    """The computing layers with each account's µs: profiler_us, onednn_us, and the engines' for what the layer became there."""
    counted, seen = point(s, "counted", network), frame(s, network)
    if counted is None or seen is None:
        return pd.DataFrame(columns=[*of_layers.COLUMNS, "profiler_us"])
    told = of_layers.timed(of_layers.table(counted["facts"]["layers"]), trace.modules(seen),
                           accounts.primitives(s, accounts.traced(s, network)))  # fmt: skip
    for engine, kind in (("ONNX Runtime", "Conv"), ("OpenVINO", "Convolution")):
        if (one := point(s, "engine", network, engine=engine)) is not None:
            told[f"{engine}_us"] = np.array(of_layers.engine_us(told, series(s.run, one, "nodes"), convolutions=kind), float)
    return told


def ranked(s: Session, network: str) -> pd.DataFrame:
    """The convolutions with every account's µs of the whole layer (ranking.table); empty where the network was not watched in turns."""
    told, counted = accounts.traced(s, network), point(s, "counted", network)
    if told is None or counted is None or "calls" not in told["facts"]["series"]:
        return pd.DataFrame()
    nodes = {one["engine"]: series(s.run, one, "nodes") for one in points(s.run, "engine") if one["network"] == network}
    return ranking.table(of_layers.table(counted["facts"]["layers"]), trace.modules(series(s.run, told, "trace")),
                         series(s.run, told, "calls"), series(s.run, told, "primitives"), nodes)  # fmt: skip


def top(told: pd.DataFrame, n: int = 5) -> pd.DataFrame:
    """The layers that take longest by the profiler, and each account's rank of them."""
    if not len(told):
        return pd.DataFrame()
    names = ranking.accounts(told)
    ranks = told[names].rank(ascending=False)
    first = told.nlargest(n, names[0])
    return pd.DataFrame({"layer": first["layer"].map(short), "what": first["shape"], "ms": first[names[0]] / 1e3,
                         ranking.WEIGHTS: first[ranking.WEIGHTS],
                         **{f"rank by {name}": ranks.loc[first.index, name] for name in names}})  # fmt: skip


def short(name: str) -> str:
    """A module's name without what all of them begin with."""
    stemmed = staged(name).replace("resnet.encoder.", "").replace("resnet.embedder.embedder", "stem").replace(".convolution", "")
    return stemmed.replace(".layers.", ".").replace(".layer.", " conv ")


def staged(name: str) -> str:
    """A module's name with stages counted from one, as in the paper and in `of_layers.stage`."""
    return re.sub(r"encoder\.stages\.(\d)", lambda found: f"encoder.stage {int(found[1]) + 1}", name)


def roof(s: Session, told: pd.DataFrame) -> Roof | None:
    """Float32's roof: the best of the products and of all layers in all accounts; memories as they were measured."""
    bandwidths = {p["place"]: float(p["facts"]["rate"]) for p in points(s.run, "bandwidth")}
    holds = {p["place"]: int(p["facts"]["bytes"]) for p in points(s.run, "bandwidth")}
    rates = {f"matrix product, {p['by']}": float(p["facts"]["rate"]) for p in points(s.run, "product") if p["precision"] == "float32"}
    for account in _accounts(told):
        known = told.dropna(subset=[account])
        if len(known) and account != "profiler_us":  # which times what lies around a kernel, too
            speed = known["flop"] / (known[account] / 1e6)
            rates[f"{short(known['layer'].tolist()[int(speed.argmax())])}, {account.removesuffix('_us')}"] = float(speed.max())
    if not rates or not bandwidths:
        return None
    by = max(rates, key=lambda name: rates[name])
    return Roof(rates[by], by, bandwidths, holds)


def placed(told: pd.DataFrame, under: Roof | None, account: str) -> pd.DataFrame:
    """Every layer under its roof by an account's times."""
    if under is None or account not in told:
        return pd.DataFrame(columns=roofline.COLUMNS)
    return roofline.placed(told, account, under)


def stages(s: Session, network: str) -> pd.DataFrame:
    """stage, layers, ms of its modules, share of the pass, GFLOP, GFLOP/s: from the stem to the head."""
    told, bare = layers(s, network), bare_us(s, network)
    if not len(told) or bare is None:
        return pd.DataFrame()
    by = told.groupby("stage", sort=False).agg(layers=("layer", "size"), us=("profiler_us", "sum"), flop=("flop", "sum")).reset_index()
    return pd.DataFrame({"stage": by["stage"], "layers": by["layers"], "ms": by["us"] / 1e3, "of a pass": (by["us"] / bare).map(_percent),
                         "GFLOP": by["flop"] / 1e9, "GFLOP/s": by["flop"] / by["us"] / 1e3})  # fmt: skip


def changed(s: Session, network: str) -> dict[str, Any] | None:
    """The point of eager and what was changed of it, in turns."""
    return next((p for p in points(s.run, "changed") if p["network"] == network and len(p["samples"]) > 1), None)


def predicted(s: Session, network: str) -> pd.DataFrame:
    """Each prediction beside what was measured after it; empty where none was registered."""
    if (told := point(s, "predicted", network)) is None:
        return pd.DataFrame()
    made = [Prediction(**one) for one in told["facts"]["predictions"]]
    measured, beside = dict[str, float](), dict[str, float]()
    for one in (p for p in points(s.run, "changed") if p["network"] == network):
        medians = {name: 1e6 * float(np.median([np.median(r) for r in rounds])) for name, rounds in one["samples"].items()}
        if len(medians) == 1:  # runs before way 3: more pictures and one thread were points of their own
            measured[networks.ONE_THREAD if one["batch"] == 1 else f"batch {one['batch']:.0f}"] = medians["eager"]
            continue
        measured |= medians
        beside |= dict.fromkeys(medians, medians["eager"])
    return predictions.judged(made, measured, told["facts"]["whole_us"], beside)


def everything_predicted(s: Session) -> pd.DataFrame:
    """`predicted` of all networks, one under the other."""
    told = [views for p in points(s.run, "predicted") if len(views := predicted(s, p["network"]).assign(network=p["network"]))]
    return pd.concat(told, ignore_index=True) if told else pd.DataFrame()


def foretold(found: pd.DataFrame) -> pd.DataFrame:
    """`predicted` in print."""
    if not len(found):
        return found
    off = found["off"].map(lambda value: None if pd.isna(value) else f"{value:+.0%}")
    return found.drop(columns=["speed-up expected"]).assign(change=found["change"].map(short), off=off)


def layouts(s: Session, network: str) -> pd.DataFrame:
    """layout, primitive, n, ms, implementation: what oneDNN does for pictures channel by channel, and pixel by pixel."""
    rows = []
    again = point(s, "spoken again", network) or changed(s, network)
    for layout, told in (("channel by channel", accounts.primitives(s, accounts.traced(s, network))),
                         ("channels_last", accounts.primitives(s, again))):  # fmt: skip
        if told is not None:
            sums = onednn.sums(told)
            rows += [{"layout": layout, "primitive": one["primitive"], "n": int(one["n"]), "ms": one["us"] / 1e3,
                      "mostly by": one["implementation"]} for one in sums.to_dict("records")]  # fmt: skip
    return pd.DataFrame(rows)


def changes(s: Session, network: str) -> pd.DataFrame:
    """Each change against eager in the same rounds: ms, ×, its interval, the answers' distance, seconds until it was ready."""
    if (one := changed(s, network)) is None:
        return pd.DataFrame()
    eager = [float(np.median(r)) for r in one["samples"]["eager"]]
    rows = []
    for name, rounds in one["samples"].items():
        if networks.besides(name):
            continue  # it asks for more pictures or other weights
        medians = [float(np.median(r)) for r in rounds]
        times = stats.mean([a / b for a, b in zip(eager, medians, strict=True)])
        off = one["facts"]["answers"].get(name, {}).get("off")
        rows.append({"change": short(name), "ms": 1e3 * float(np.median(medians)),
                     "×": times and times.value, "lo": times and times.lo, "hi": times and times.hi, "answers off by": off,
                     "ready after, s": one["facts"]["ready_s"][name]})  # fmt: skip
    return pd.DataFrame(rows)


def forms(s: Session) -> pd.DataFrame:
    """A row a network and form: ms, × eager PyTorch with its interval, the share of first classes that are float32's."""
    rows = []
    for told in points(s.run, "forms"):
        agrees = told["facts"]["agrees"] if told["network"] in TRAINED else {}
        for name, (mine, eager) in speeds(told).items():
            times = stats.mean([a / b for a, b in zip(eager, mine, strict=True)])
            rows.append({"network": told["network"], "form": name, "ms": 1e3 * float(np.median(mine)), "×": times and times.value,
                         "lo": times and times.lo, "hi": times and times.hi,
                         "first class as float32's": agrees.get(name)})  # fmt: skip
    return pd.DataFrame(rows, columns=["network", "form", "ms", "×", "lo", "hi", "first class as float32's"])


def weights(s: Session, network: str) -> dict[str, Any]:
    """Whether latency depends on weights: another seed against the first, and denormal products against both."""
    told = point(s, "weights", network) or changed(s, network)
    if told is None or "denormal" not in told["samples"]:
        return dict.fromkeys(("seed", "seed_lo", "seed_hi", "denormal"))
    rounds = {name: [float(np.median(taken)) for taken in each] for name, each in told["samples"].items()}
    other, slow = (stats.mean([a / b for a, b in zip(rounds[name], rounds["eager"], strict=True)]) for name in ("seed 1", "denormal"))
    lo, hi = (None, None) if other is None or other.lo is None or other.hi is None else (other.lo - 1, other.hi - 1)
    return {"seed": other and other.value - 1, "seed_lo": lo, "seed_hi": hi, "denormal": slow and slow.value}


def _accounts(told: pd.DataFrame) -> list[str]:
    return [str(name) for name in told if str(name).endswith("_us")]


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _ms(value: float | None) -> float | None:
    return None if value is None else value * 1e3
