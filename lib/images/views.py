"""The recorded images as tables for the notebook: sizes, what fills them, what was cut, how they start, whether they answer alike. Pure.

Unknown is None: a variant that was not built has no row, a measurement that failed no number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lib import record, stats
from lib.images.recipe import VARIANTS

NOTEBOOK = "pipeline_images"
MB = 1e6
SHOWN = 0.012  # of an image: a smaller package is one of "others"
KINDS = {"debian": "Debian", "python": "Python packages", "ours": "our code", "model": "model", "other": "other"}


class NothingRecorded(LookupError):
    """No run of images is on this machine or recorded."""


@dataclass(frozen=True, slots=True)
class Images:
    """One run, point by point."""

    run: record.Run
    points: tuple[record.Point, ...]

    def of(self, what: str, *, status: tuple[str, ...] = ("ok",)) -> list[record.Point]:
        """Points of one kind, fat first."""
        found = [point for point in self.points if point.setting["what"] == what and point.status in status]
        return sorted(found, key=lambda point: (str(point.setting["service"]), _nth(point)))

    def one(self, what: str, service: str, variant: str) -> record.Point | None:
        asked = (service, variant)
        return next((point for point in self.of(what) if (point.setting["service"], point.setting.get("variant")) == asked), None)

    def sizes(self) -> pd.DataFrame:
        """A row an image: MB on disk and as sent, how many times smaller than fat, what it took to build, how fast it starts."""
        rows = []
        for point in self.of("image"):
            service, variant, facts = str(point.setting["service"]), str(point.setting["variant"]), point.facts
            fat = self.one("image", service, "fat")
            rows.append(
                {
                    "service": service, "variant": variant, "mb": facts["bytes"] / MB, "compressed_mb": facts["compressed_bytes"] / MB,
                    "times_smaller": fat.facts["bytes"] / facts["bytes"] if fat else None, "files": facts["files"],
                    "packages": facts["sbom_components"], "build_s": facts["build_s"],
                    "cold_s": self._middle(service, variant, "cold"), "warm_s": self._middle(service, variant, "warm"),
                    "rss_mb": self._rss(service, variant), "user": facts["user"], "licences": facts["licences"],
                    "lint": None if facts["lint"] is None else len(facts["lint"]),
                }
            )  # fmt: skip
        return pd.DataFrame(rows)

    def shown(self) -> pd.DataFrame:
        """`sizes` as a reader wants it: fewer columns, named in words."""
        columns = {"service": "service", "variant": "image", "mb": "MB", "compressed_mb": "MB to pull",
                   "times_smaller": "× smaller", "packages": "SBOM entries", "build_s": "build, s", "cold_s": "cold, s",
                   "warm_s": "warm, s", "rss_mb": "RSS, MB"}  # fmt: skip
        return self.sizes()[list(columns)].rename(columns=columns)

    def shown_cuts(self) -> pd.DataFrame:
        """`cuts` as a reader wants it: a row a rule, MB in each service, the most first."""
        told = self.cuts()
        if not len(told):
            return told
        wide = told.pivot_table(index=["what", "why"], columns="service", values="mb", aggfunc="sum").reset_index()
        services = [service for service in ("fraud", "retail") if service in wide]
        wide = wide.assign(most=wide[services].max(axis=1)).sort_values("most", ascending=False, ignore_index=True)
        words = wide[services].map(lambda mb: "–" if pd.isna(mb) else f"{mb:.1f}").rename(columns=lambda name: f"{name}, MB")
        return pd.concat([wide["what"], words, wide["why"]], axis=1)

    def shown_answers(self) -> pd.DataFrame:
        """`answers` as a reader wants it."""
        columns = {"service": "service", "variant": "image", "requests": "asked", "equal": "same bytes as fat", "routes": "routes",
                   "modules": "modules imported", "libraries_checked": "libraries resolved", "missing": "missing",
                   "hole_noticed": "planted hole seen"}  # fmt: skip
        return self.answers()[list(columns)].rename(columns=columns)

    def layers(self) -> pd.DataFrame:
        """A row a layer, in the order in which they lie on each other."""
        return pd.DataFrame(
            {**_named(point), "layer": nth, "mb": layer["bytes"] / MB, "compressed_mb": layer["compressed_bytes"] / MB,
             "created_by": layer["created_by"]}
            for point in self.of("image") for nth, layer in enumerate(point.facts["layers"], start=1)
        )  # fmt: skip

    def parts(self) -> pd.DataFrame:
        """What fills each image: kind, part and MB; packages below a share of `SHOWN` are one part, so that the rest can be read."""
        rows = []
        for point in self.of("image"):
            small: dict[str, float] = {}
            for package in point.facts["packages"]:
                kind = KINDS[package["kind"]]
                if package["kind"] in ("debian", "python") and package["bytes"] < SHOWN * point.facts["bytes"]:
                    small[kind] = small.get(kind, 0) + package["bytes"]
                else:
                    rows.append({**_named(point), "kind": kind, "part": package["name"], "mb": package["bytes"] / MB})
            rows += [{**_named(point), "kind": kind, "part": "others", "mb": size / MB} for kind, size in small.items()]
        return pd.DataFrame(rows)

    def cuts(self) -> pd.DataFrame:
        """What each rule took out of the distroless image, the most first, and why it may."""
        rows = [{"service": point.setting["service"], "what": rule["what"], "mb": rule["bytes"] / MB, "files": rule["files"],
                 "how": rule["how"], "why": rule["why"]} for point in self.of("cut") for rule in point.facts["rules"]]  # fmt: skip
        frame = pd.DataFrame(rows, columns=["service", "what", "mb", "files", "how", "why"])
        return frame.sort_values(["service", "mb"], ascending=[True, False], ignore_index=True)

    def starts(self) -> pd.DataFrame:
        """Long: service, variant, cache, what ("ready" or "first answer"), its median with interval (None below six rounds) and n."""
        rows = []
        for (service, variant, cache), points in self._rounds().items():
            for key, what in (("ready_s", "ready"), ("first_answer_s", "first answer")):
                found = stats.median([value for point in points for value in point.samples[key] if value is not None])
                if found is not None:
                    rows.append({"service": service, "variant": variant, "cache": cache, "what": what, "s": found.value, "lo_s": found.lo,
                                 "hi_s": found.hi, "n": found.n})  # fmt: skip
        return pd.DataFrame(rows, columns=["service", "variant", "cache", "what", "s", "lo_s", "hi_s", "n"])

    def answers(self) -> pd.DataFrame:
        """A row an image: how many requests, whether every byte was fat's, and what the search for missing files found."""
        rows = []
        for point in self.of("answers", status=("ok", "invalid")):
            service, variant = str(point.setting["service"]), str(point.setting["variant"])
            lacks = self.one("missing", service, variant)
            rows.append(
                {
                    **_named(point), "requests": point.facts["requests"], "equal": point.facts["equal"],
                    "sha256": point.facts["sha256"][:12], "routes": None if lacks is None else len(lacks.facts["routes"]),
                    "modules": None if lacks is None else lacks.facts["modules"],
                    "libraries_checked": None if lacks is None else lacks.facts["elf_files"],
                    "missing": None if lacks is None else len(lacks.facts["elf_missing"]) + len(lacks.facts["modules_lost"]),
                    "hole_noticed": None if lacks is None else bool(lacks.facts["hole_missed_by"] and lacks.facts["hole_start"]),
                }
            )  # fmt: skip
        return pd.DataFrame(rows)

    def hardening(self) -> pd.DataFrame:
        """A row an image: whom it runs as, what lies ready for an intruder."""
        return pd.DataFrame(
            {
                **_named(point), "uid": point.facts["uid"], "read_only": all(what == "EROFS" for what in point.facts["writes"].values()),
                "setuid": len(point.facts["setuid"]), "shells": ", ".join(point.facts["shells"]) or "none",
                "package_managers": ", ".join(point.facts["managers"]) or "none", "programs": point.facts["programs"],
            }
            for point in self.of("hardening", status=("ok", "invalid"))
        )  # fmt: skip

    def headline(self) -> dict[str, Any]:
        """Values for figures.claim: `{service}_{variant}_mb`, `…_times`, `…_cold_s`, `…_warm_s`, and whether all answered alike."""
        found: dict[str, Any] = {}
        for row in self.sizes().to_dict("records"):
            name = f"{row['service']}_{row['variant']}"
            told = {"mb": "mb", "times": "times_smaller", "cold_s": "cold_s", "warm_s": "warm_s"}
            found |= {f"{name}_{short}": row[column] for short, column in told.items()}
        # Fat is what the others stand against.
        asked = [point for point in self.of("answers", status=("ok", "invalid")) if point.setting["variant"] != "fat"]
        found["requests"] = sum(point.facts["requests"] for point in asked) or None
        found["equal"] = sum(point.facts["equal"] for point in asked) if asked else None
        found["compared"] = len(asked) or None
        times = [row["times_smaller"] for row in self.sizes().to_dict("records") if row["variant"] == "distroless" and row["times_smaller"]]
        return {**found, "least_times": min(times, default=None)}

    def _rounds(self) -> dict[tuple[str, str, str], list[record.Point]]:
        found: dict[tuple[str, str, str], list[record.Point]] = {}
        for point in self.of("start"):
            found.setdefault((str(point.setting["service"]), str(point.setting["variant"]), str(point.setting["cache"])), []).append(point)
        return found

    def _middle(self, service: str, variant: str, cache: str) -> float | None:
        points = self._rounds().get((service, variant, cache), [])
        found = stats.median([value for point in points for value in point.samples["first_answer_s"]])
        return found.value if found else None

    def _rss(self, service: str, variant: str) -> float | None:
        points = self._rounds().get((service, variant, "warm"), [])
        found = stats.median([value / MB for point in points for value in point.samples["rss_bytes"]])
        return found.value if found else None


def images(runs: Sequence[record.Run] | None = None) -> Images:
    """The newest run that holds images; one of profile "smoke", which proves and does not measure, only where there is no other.

    Raises NothingRecorded.
    """
    found = list(record.runs(NOTEBOOK) if runs is None else runs)
    for run in sorted(found, key=lambda run: (run.parameters.get("profile") != "smoke", run.utc), reverse=True):
        points = tuple(run.points())
        if any(point.setting["what"] == "image" for point in points):
            return Images(run, points)
    raise NothingRecorded("no run of the images is on this machine or recorded; ./run_all.sh images makes one (Debian, root)")


def _named(point: record.Point) -> dict[str, Any]:
    return {"service": point.setting["service"], "variant": point.setting["variant"]}


def _nth(point: record.Point) -> int:
    variant = point.setting.get("variant")
    return VARIANTS.index(str(variant)) if variant in VARIANTS else len(VARIANTS)
