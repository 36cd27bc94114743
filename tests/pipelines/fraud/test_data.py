"""The ledger as it lies in its package: in order, to the cent, and posted so that nothing is lost on the way."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lib import fetch
from lib.pipelines.fraud import data
from lib.pipelines.fraud.transaction import parse

HEADER = ",".join(("Time", *data.COMPONENTS, "Amount", "Class"))


def wheel(place: Path, *lines: tuple[float, float, str]) -> Path:
    """A package with a ledger of (time, amount, class) and components 0.1, 0.2, …"""
    components = ",".join(str(i / 10) for i in range(1, 29))
    with zipfile.ZipFile(place / "made.whl", "w") as archive:
        archive.writestr(data.MEMBER, "\n".join((HEADER, *(f"{second},{components},{amount},{kind}" for second, amount, kind in lines))))
    return place / "made.whl"


def test_read_keeps_order_cents_and_frauds(tmp_path: Path) -> None:
    found = data.read(wheel(tmp_path, (0, 149.62, '"0"'), (0, 0.29, '"1"'), (7, 0, '"0"')))
    assert len(found) == 3
    assert found.second.tolist() == [0, 0, 7]
    assert found.cents.tolist() == [14_962, 29, 0]
    assert found.amount.tolist() == [149.62, 0.29, 0]
    assert found.fraud.tolist() == [False, True, False]
    assert found.v.shape == (3, 28)
    assert found.v[2, [0, 27]].tolist() == [0.1, 2.8]
    assert found.events()[1] == ("ulb-1", 0, 29)
    assert found[1:].second.tolist() == [0, 7]


def test_times_that_run_backwards_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"made\.whl: times run backwards from row 1 to the next"):
        data.read(wheel(tmp_path, (0, 1, "0"), (5, 1, "0"), (4, 1, "0")))


def test_what_is_posted_is_read_as_what_was_in_the_ledger(tmp_path: Path) -> None:
    found = data.read(wheel(tmp_path, (3, 12.34, "0")))
    sent = json.loads(found.body(0, id="mine"))
    assert (sent["id"], sent["time"], sent["amount"], sent["v"]) == ("mine", 3, 12.34, found.v[0].tolist())
    assert json.loads(found.body(0))["id"] == "ulb-0"
    assert parse(found.body(0)).cents == 1_234


def test_the_whole_ledger_is_the_published_one() -> None:
    if not fetch.sources()[data.SOURCE].path.exists():
        pytest.skip("the ledger is not fetched on this machine yet")
    whole = data.ledger()
    assert (len(whole), int(whole.fraud.sum())) == (284_807, 492)
    assert (int(whole.second[-1]), int(whole.cents.max()), int(whole.cents.sum())) == (172_792, 2_569_116, 2_516_259_001)
    assert np.isfinite(whole.v).all()
