"""The images measured into the run `pipeline_images`: what they weigh, what was cut, how they start, answer, and bear inspection.

Starts are interleaved over the variants, round after round, so that a slow minute of the machine hits them alike.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from lib import fetch, machine, record
from lib.child import Failed, Say
from lib.images import base, proof, questions, start, stock, store
from lib.images.make import Made
from lib.images.recipe import RECIPES, UID
from lib.install import pinned
from lib.measured import Broke, Found, Skipped, keep

NOTEBOOK = "pipeline_images"
COUNT = {"fraud": 1000, "retail": 12}
ROUNDS = {"smoke": 1, "quick": 7, "full": 15}  # a median has an interval from six on


@dataclass(frozen=True, slots=True)
class Session:
    """What is measured, where to."""

    run: record.Run
    made: tuple[Made, ...]
    say: Say

    def of(self, service: str) -> list[Made]:
        return [made for made in self.made if made.service == service]

    def services(self) -> list[str]:
        return list(dict.fromkeys(made.service for made in self.made))


def session(made: Sequence[Made], *, profile: str, say: Say, fresh: bool = False) -> Session:
    """The run is another for other images: a point of one must not stand for the next."""
    images = hashlib.sha256("".join(sorted(each.image.id for each in made)).encode()).hexdigest()[:12]
    versions = {**base.versions(), "imagetools": pinned(stock.TOOLS)}
    parameters = {"profile": profile, "images": images, "services": sorted({each.service for each in made})}
    run = record.begin(NOTEBOOK, parameters=parameters, environment=machine.here().environment(**versions), fresh=fresh)
    return Session(run, tuple(made), say)


def measure(s: Session, *, profile: str) -> None:
    """Everything, in the order in which a mistake is cheapest to find."""
    for made in s.made:
        s.say(f"{made.service} {made.variant}: taking stock")
        keep(s.run, {"what": "image", **_named(made)}, partial(_image, made, s.say), timed=False)
    for service in s.services():
        for made in s.of(service):
            if made.variant == "distroless":
                keep(s.run, {"what": "cut", "service": service}, partial(_cut, made), timed=False)
            s.say(f"{service} {made.variant}: answers, what is missing, hardening")
            keep(s.run, {"what": "answers", **_named(made)}, partial(_answers, s.of(service)[0], made), timed=False)
            keep(s.run, {"what": "missing", **_named(made)}, partial(_missing, s.of(service)[0], made), timed=False)
            keep(s.run, {"what": "hardening", **_named(made)}, partial(_hardening, made), timed=False)
    for nth in range(1, ROUNDS[profile] + 1):
        for cache in ("cold", "warm"):
            for made in s.made:
                s.say(f"{made.service} {made.variant}: start {nth} of {ROUNDS[profile]}, {cache}")
                keep(s.run, {"what": "start", **_named(made), "cache": cache, "round": nth}, partial(_start, made, cache))


def _named(made: Made) -> dict[str, str]:
    return {"service": made.service, "variant": made.variant}


def _image(made: Made, say: Say) -> Found:
    try:
        taken = stock.take(made, say=say)
    except (Failed, store.Absent) as reason:
        raise Broke(str(reason)) from reason
    lint = taken.facts["lint"]
    return Found({}, taken.facts, {"6 books": taken.differs, "7 lint": "; ".join(lint) if lint else None})


def _cut(made: Made) -> Found:
    try:
        rules = stock.pruned(made)
    except store.Absent as reason:
        raise Broke(str(reason)) from reason
    idle = [rule["what"] for rule in rules if not rule["files"]]
    return Found({}, {"rules": rules}, {"7 rules": f"{', '.join(idle)}: found nothing to cut" if idle else None})


def _asked(made: Made, count: int) -> list[questions.Question]:
    try:
        return questions.questions(made.service, count=count)
    except (fetch.Refused, store.Absent) as reason:
        raise Skipped(str(reason)) from reason


def _replies(made: Made, asked: Sequence[questions.Question]) -> list[tuple[int, bytes]]:
    with start.started(made.image) as running:
        return questions.ask(running.process.url, asked)


def _answers(first: Made, made: Made) -> Found:
    """Against those of the first variant, asked again now: what is compared comes from two processes of the same hour."""
    asked = _asked(made, COUNT[made.service])
    theirs = _replies(made, asked)
    ours = theirs if made is first else _replies(first, asked)
    apart = next((nth for nth, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b), None)
    bad = [status for status, _ in theirs if status != 200]
    facts = {
        "requests": len(asked), "sha256": hashlib.sha256(b"".join(body for _, body in theirs)).hexdigest(), "against": first.variant,
        "equal": apart is None, "bytes": sum(len(body) for _, body in theirs),
        "first_difference": None if apart is None else {"request": apart, "theirs": _text(theirs[apart]), "ours": _text(ours[apart])},
    }  # fmt: skip
    checks = {"7 answers": None if apart is None else f"answer {apart} is another than {first.variant}'s",
              "7 status": f"{len(bad)} of {len(asked)} were answered {sorted(set(bad))}" if bad else None}  # fmt: skip
    return Found({"answer_sha": [hashlib.sha256(body).hexdigest()[:12] for _, body in theirs]}, facts, checks)


def _text(reply: tuple[int, bytes]) -> str:
    return f"{reply[0]} {reply[1].decode(errors='replace')[:300]}"


def _missing(first: Made, made: Made) -> Found:
    _asked(made, 1)
    _, tried = proof.routes(first.image, made.service)
    statuses, own = proof.routes(made.image, made.service)
    optional = proof.unimportable(first.image, tried)  # asked for and not there, which is a package's own choice
    modules = sorted(set(tried) - optional.keys() - proof.at_birth(first.image))
    lost = proof.unimportable(made.image, modules)
    ours = proof.of_own(lost, RECIPES[made.service].requirements(made.variant))
    found, wrong = proof.libraries(made.image), questions.refused(statuses)
    lacking = next(iter(found["elf_missing"].items()), None)
    checks = {
        "6 libraries": f"{len(found['elf_missing'])} files lack libraries: {lacking}" if lacking else None,
        "6 modules": f"cannot be imported: {next(iter(ours.items()))} and {len(ours) - 1} more" if ours else None,
        "6 routes": "; ".join(wrong) or None,
        "6 hole": None if found["hole_missed_by"] and found["hole_start"] else f"a hidden {proof.HOLE} was not noticed",
    }
    facts = {**found, "routes": statuses, "modules": len(own), "modules_of_fat": len(modules), "modules_lost": ours,
             "modules_of_fat_alone": sorted(lost.keys() - ours.keys())}  # fmt: skip
    return Found({}, facts, checks)


def _hardening(made: Made) -> Found:
    seen = proof.hardening(made.image)
    wrote = [place for place, what in seen["writes"].items() if what != "EROFS"]
    bare = made.variant == "distroless"
    checks = {
        "7 user": None if seen["uid"] == UID and not seen["capabilities"] else f"uid {seen['uid']}, capabilities {seen['capabilities']:x}",
        "7 root": (f"not read-only at {', '.join(wrote)}" if wrote else None) if seen["writes"] else "could not be tried",
        "7 bare": f"it has {', '.join(seen['shells'] + seen['managers'] + seen['setuid'])}"
        if bare and (seen["shells"] or seen["managers"] or seen["setuid"]) else None,
    }  # fmt: skip
    return Found({}, seen, checks)


def _start(made: Made, cache: str) -> Found:
    """Once; warm is the second of two starts, so that the first has read what it needs."""
    asked = _asked(made, 1)
    if cache == "cold":
        if why := start.drop_caches():
            raise Skipped(why)
    else:
        with start.started(made.image):
            pass
    with start.started(made.image) as running:
        status, _ = questions.ask(running.process.url, asked)[0]
        answered_s = (time.monotonic_ns() - running.began_ns) / 1e9
        for _ in range(4):
            questions.ask(running.process.url, asked)
        rss = proof.memory_bytes(running.process)
    samples: dict[str, Any] = {"ready_s": [running.ready_s], "first_answer_s": [answered_s], "rss_bytes": [rss]}
    return Found(samples, {"status": status}, {"7 status": None if status == 200 else f"answered {status}"})
