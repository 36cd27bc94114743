"""What comes over the wire is a transaction or is refused with its reason; nothing else ever happens."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.pipelines.fraud.transaction import COMPONENTS, Refused, answer, parse

GOOD: dict[str, Any] = {"id": "a", "time": 1, "amount": 149.62, "v": [0.5] * COMPONENTS}


def body(**changed: Any) -> bytes:
    return json.dumps({**GOOD, **changed}).encode()


def without(field: str) -> bytes:
    return json.dumps({key: value for key, value in GOOD.items() if key != field}).encode()


def test_a_good_one_is_read_as_it_was_sent() -> None:
    one = parse(body(model="m"))
    assert (one.id, one.time, one.amount, one.cents, one.model) == ("a", 1.0, 149.62, 14_962, "m")
    assert one.v == [0.5] * COMPONENTS


@pytest.mark.parametrize("cents", [0, 1, 29, 57, 115, 1_001, 999_999_999])
def test_every_whole_cent_passes(cents: int) -> None:
    assert parse(body(amount=cents / 100)).cents == cents


@pytest.mark.parametrize(("sent", "status", "reason"), [
    (b"", 400, "truncated"),
    (b"{", 400, "truncated"),
    (b"\xff\xfe", 400, "malformed"),
    (body(amount=float("nan")), 400, "malformed"),
    (body(time=float("inf")), 400, "malformed"),
    (body() + b"x", 400, "trailing"),
    (b"[" * 100_000, 422, "Expected `object`"),
    (b"[]", 422, "Expected `object`, got `array`"),
    (without("amount"), 422, "missing required field `amount`"),
    (without("v"), 422, "missing required field `v`"),
    (body(pan="4111"), 422, "unknown field `pan`"),
    (body(v=[0.0] * 27), 422, "length >= 28 - at `$.v`"),
    (body(v=[0.0] * 29), 422, "length <= 28 - at `$.v`"),
    (body(v=[0.0] * 27 + ["x"]), 422, "Expected `float`, got `str` - at `$.v[27]`"),
    (body(v=[0.0] * 27 + [None]), 422, "got `null`"),
    (body(v=[0.0] * 27 + [1e7]), 422, "<= 1000000.0"),
    (body(amount="12"), 422, "Expected `float`, got `str` - at `$.amount`"),
    (body(amount=-0.01), 422, ">= 0.0 - at `$.amount`"),
    (body(amount=1e300), 422, "<= 10000000.0 - at `$.amount`"),
    (body(amount=12.345), 422, "whole cents, got 12.345"),
    (body(time=-1), 422, ">= 0.0 - at `$.time`"),
    (body(time=True), 422, "got `bool`"),
    (body(id=""), 422, "length >= 1 - at `$.id`"),
    (body(id="x" * 65), 422, "length <= 64 - at `$.id`"),
    (body(id=5), 422, "Expected `str`, got `int` - at `$.id`"),
    (body(model=5), 422, "at `$.model`"),
    (body().replace(b'"time": 1', b'"time": 1e999'), 422, "out of range - at `$.time`"),
])  # fmt: skip
def test_bad_ones_are_refused_precisely(sent: bytes, status: int, reason: str) -> None:
    with pytest.raises(Refused) as refused:
        parse(sent)
    assert refused.value.status == status
    assert reason in refused.value.message
    assert json.loads(refused.value.body())["error"]["message"] == refused.value.message


@given(st.binary(max_size=300))
def test_bytes_are_never_more_than_refused(sent: bytes) -> None:
    with pytest.raises(Refused) as refused:
        parse(sent)
    assert refused.value.status in (400, 422)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3)
)


@given(st.dictionaries(st.sampled_from([*GOOD, "other"]), JSON))
def test_fields_of_any_kind_are_a_transaction_in_bounds_or_refused(changed: dict[str, Any]) -> None:
    try:
        one = parse(json.dumps({**GOOD, **changed}).encode())
    except Refused as refused:
        assert refused.status in (400, 422)
        return
    assert 0 <= one.amount <= 1e7
    assert len(one.v) == COMPONENTS
    assert 0 < len(one.id) <= 64


@given(st.text(min_size=1, max_size=64))
def test_any_id_comes_back_as_it_was_sent(id_: str) -> None:
    try:
        one = parse(body(id=id_))
    except Refused as refused:
        assert refused.status == 400  # half of a surrogate pair is no text
        return
    assert json.loads(answer(one.id, "approve", 0.5, [], "m"))["id"] == id_
