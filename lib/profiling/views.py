"""Tables of notebook 30: what the record says, in readers' units. Pure, but for reading series that lie beside the points."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lib import stats
from lib.measured import points, series
from lib.profiling import breakdown, ledger, onednn, predictions, roofline, trace
from lib.profiling import layers as of_layers
from lib.profiling.forms import speeds
from lib.profiling.predictions import Prediction
from lib.profiling.roofline import Roof
from lib.profiling.session import Session

WAYS = {"bare": "nobody looks", "scopes": "a scope for each module, nobody listens", "profiler": "torch.profiler, operators",
        "whole": "torch.profiler, scopes and shapes"}  # fmt: skip


def point(s: Session, what: str, network: str, **more: Any) -> dict[str, Any] | None:
    """The point of a network, None where it was not measured or did not pass."""
    wanted = {"network": network, **more}
    return next((p for p in points(s.run, what) if all(p.get(key) == value for key, value in wanted.items())), None)


def bare_us(s: Session, network: str) -> float | None:
    """A pass that nobody looks at, µs: the median."""
    told = point(s, "traced", network)
    return None if told is None else 1e6 * float(np.median(told["samples"]["bare_s"]))


def frame(s: Session, network: str) -> pd.DataFrame | None:
    """The trace of a network."""
    return None if (told := point(s, "traced", network)) is None else series(s.run, told, "trace")


def ledgers(s: Session, network: str) -> dict[str, pd.DataFrame]:
    """Account → part, n, us, share of the unwatched time, the last row what it does not explain. Those that were measured."""
    told, found = point(s, "traced", network), dict[str, pd.DataFrame]()
    if told is not None:
        seen, bare = series(s.run, told, "trace"), 1e6 * float(np.median(told["samples"]["bare_s"]))
        watching = breakdown.watching_us(told)
        found["torch.profiler"] = ledger.profiler(seen, bare_us=bare, watching=watching)
        if (spoken := point(s, "spoken", network)) is not None:
            found["oneDNN"] = ledger.onednn(seen, series(s.run, spoken, "primitives"), bare_us=bare, watching=watching)
    for engine in ("ONNX Runtime", "OpenVINO"):
        if (one := point(s, "engine", network, engine=engine)) is not None:
            walls = [1e6 * wall for wall in one["samples"]["watched_s"]]
            found[engine] = ledger.engine(series(s.run, one, "nodes"), walls, bare_us=1e6 * float(np.median(one["samples"]["bare_s"])))
    return found


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
    """module, whole_us: medians over passes, in the order of computing."""
    seen = frame(s, network)
    if seen is None:
        return pd.DataFrame(columns=["module", "whole_us"])
    return trace.modules(seen).groupby("module", sort=False)["whole_us"].median().reset_index()


def closes(found: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """A row an account: what it comes to, what a pass takes unwatched, what it does not explain."""
    rows = []
    for name, told in found.items():
        if name == "oneDNN":
            continue  # what lies outside of it is the profiler's: the two close together
        whole = float(told["us"].sum())
        off = ledger.unexplained(told)
        rows.append({"account": name, "rows": len(told) - 1, "adds up to, ms": (whole - float(told["us"].iloc[-1])) / 1e3,
                     "unwatched, ms": whole / 1e3, "not explained": f"{off:+.1%}", "closes": abs(off) <= ledger.TOLERANCE})  # fmt: skip
    return pd.DataFrame(rows)


def looking(s: Session, network: str) -> pd.DataFrame:
    """What looking costs: a row a way, ms, the interval, × the unwatched."""
    if (told := point(s, "traced", network)) is None:
        return pd.DataFrame()
    bare = told["samples"]["bare_s"]
    rows = []
    for way, said in WAYS.items():
        taken = told["samples"][f"{way}_s"]
        middle, times = stats.median(taken), stats.ratio(taken, bare)
        if middle and times:
            rows.append({"looked at by": said, "ms": middle.value * 1e3, "lo": _ms(middle.lo), "hi": _ms(middle.hi), "×": times.value})
    return pd.DataFrame(rows)


def layers(s: Session, network: str) -> pd.DataFrame:
    """The computing layers with each account's µs: profiler_us, onednn_us, and the engines' for what the layer became there."""
    counted, seen = point(s, "counted", network), frame(s, network)
    if counted is None or seen is None:
        return pd.DataFrame(columns=[*of_layers.COLUMNS, "profiler_us"])
    spoken = point(s, "spoken", network)
    told = of_layers.timed(of_layers.table(counted["facts"]["layers"]), trace.modules(seen),
                           None if spoken is None else series(s.run, spoken, "primitives"))  # fmt: skip
    for engine, kind in (("ONNX Runtime", "Conv"), ("OpenVINO", "Convolution")):
        if (one := point(s, "engine", network, engine=engine)) is not None:
            told[f"{engine}_us"] = np.array(of_layers.engine_us(told, series(s.run, one, "nodes"), convolutions=kind), float)
    return told


def top(told: pd.DataFrame, n: int = 5) -> pd.DataFrame:
    """The layers that take longest by the profiler, and each account's rank of them."""
    if not len(told):
        return pd.DataFrame()
    accounts = _accounts(told)
    ranks = told[accounts].rank(ascending=False)
    first = told.assign(rank=ranks["profiler_us"]).nsmallest(n, "rank")
    share = first["profiler_us"] / told["profiler_us"].sum()
    rows = {"layer": first["layer"].map(short), "what": first["shape"], "ms": first["profiler_us"] / 1e3,
            "of all layers": share.map(_percent)}  # fmt: skip
    return pd.DataFrame({**rows, **{f"rank by {name.removesuffix('_us')}": ranks.loc[first.index, name] for name in accounts}})


def agreement(told: pd.DataFrame, n: int = 5) -> dict[str, Any]:
    """How many of the top layers by the profiler each other account has among its own: the fewest, and whose."""
    accounts = [name for name in _accounts(told) if name != "profiler_us" and told[name].notna().any()]
    if not len(told) or not accounts:
        return dict.fromkeys(("fewest", "whose", "n"))
    ours = set(of_layers.top(told, "profiler_us", n))
    same = {name.removesuffix("_us"): len(ours & set(of_layers.top(told, name, n))) for name in accounts}
    whose = min(same, key=lambda name: same[name])
    return {"fewest": same[whose], "whose": whose, "n": n}


def short(name: str) -> str:
    """A module's name without what all of them begin with."""
    return name.replace("resnet.encoder.stages.", "stage ").replace("resnet.embedder.embedder", "stem").replace(".layers.", ".").replace(
        ".convolution", "").replace(".layer.", " conv ")  # fmt: skip


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


def predicted(s: Session, network: str) -> pd.DataFrame:
    """Each prediction beside what was measured after it; empty where none was registered."""
    if (told := point(s, "predicted", network)) is None:
        return pd.DataFrame()
    made = [Prediction(**one) for one in told["facts"]["predictions"]]
    measured: dict[str, float] = {}
    beside: dict[str, float] = {}
    for one in (p for p in points(s.run, "changed") if p["network"] == network):
        medians = {name: 1e6 * float(np.median([np.median(r) for r in rounds])) for name, rounds in one["samples"].items()}
        if one["batch"] > 1:
            measured[f"batch {one['batch']:.0f}"] = medians["eager"]
        elif len(one["samples"]) == 1:
            measured["one thread"] = medians["eager"]
        else:
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
    names = found["change"].str.replace("resnet.encoder.stages.", "stage ")
    return found.drop(columns=["speed-up expected"]).assign(change=names, off=off)


def layouts(s: Session, network: str) -> pd.DataFrame:
    """layout, primitive, n, ms, implementation: what oneDNN does for pictures channel by channel, and pixel by pixel."""
    rows = []
    for layout, told in (("channel by channel", point(s, "spoken", network)), ("channels_last", point(s, "spoken again", network))):
        if told is not None:
            sums = onednn.sums(series(s.run, told, "primitives"))
            rows += [{"layout": layout, "primitive": one["primitive"], "n": int(one["n"]), "ms": one["us"] / 1e3,
                      "mostly by": one["implementation"]} for one in sums.to_dict("records")]  # fmt: skip
    return pd.DataFrame(rows)


def changes(s: Session, network: str) -> pd.DataFrame:
    """Each change against eager in the same rounds: ms, ×, its interval, the answers' distance, seconds until it was ready."""
    one = next((p for p in points(s.run, "changed") if p["network"] == network and p["batch"] == 1 and len(p["samples"]) > 1), None)
    if one is None:
        return pd.DataFrame()
    eager = [float(np.median(r)) for r in one["samples"]["eager"]]
    rows = []
    for name, rounds in one["samples"].items():
        medians = [float(np.median(r)) for r in rounds]
        times = stats.mean([a / b for a, b in zip(eager, medians, strict=True)])
        off = one["facts"]["answers"].get(name, {}).get("off")
        rows.append({"change": name.replace("resnet.encoder.stages.", "stage "), "ms": 1e3 * float(np.median(medians)),
                     "×": times and times.value, "lo": times and times.lo, "hi": times and times.hi, "answers off by": off,
                     "ready after, s": one["facts"]["ready_s"][name]})  # fmt: skip
    return pd.DataFrame(rows)


def forms(s: Session) -> pd.DataFrame:
    """A row a network and form: ms, × eager PyTorch with its interval, the share of first classes that are float32's."""
    rows = []
    for told in points(s.run, "forms"):
        for name, (mine, eager) in speeds(told).items():
            times = stats.mean([a / b for a, b in zip(eager, mine, strict=True)])
            seen = told["network"] != "resnet50"
            rows.append({"network": told["network"], "form": name, "ms": 1e3 * float(np.median(mine)), "×": times and times.value,
                         "lo": times and times.lo, "hi": times and times.hi,
                         "first class as float32's": told["facts"]["agrees"][name] if seen else None})  # fmt: skip
    return pd.DataFrame(rows, columns=["network", "form", "ms", "×", "lo", "hi", "first class as float32's"])


def weights(s: Session, network: str) -> dict[str, Any]:
    """Whether latency depends on weights: another seed against the first, and denormal products against both."""
    if (told := point(s, "weights", network)) is None:
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
