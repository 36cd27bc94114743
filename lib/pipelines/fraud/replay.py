"""The ledger as an endless stream of requests: its transactions in order, again from the start days later, every id once.

Event time never runs backwards, so a service that has seen one part can be asked the next. Nor does it leap by a day, which a service would
refuse: a turn takes the fewest whole days that hold the ledger, so that the time of day stays true in every turn.
"""

from __future__ import annotations

import json

from lib.pipelines.fraud.data import Ledger

DAY_S = 86_400
PERIOD_S = 2 * DAY_S  # what the whole ledger spans
HEAD = b"POST /v1/score HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b"


class Replay:
    """Remembers how far it is. `name` begins every id, so that two streams never share one."""

    def __init__(self, ledger: Ledger, name: str) -> None:
        self._ledger, self._name, self._next = ledger, name, 0
        self._components: dict[int, str] = {}
        self._turn_s = DAY_S * (1 + int(ledger.second[-1] - ledger.second[0]) // DAY_S)

    def bodies(self, n: int) -> list[bytes]:
        """The next `n` transactions as a client would post them."""
        found = [self._body(number) for number in range(self._next, self._next + n)]
        self._next += n
        return found

    def requests(self, n: int, *, traced: bool = False) -> list[bytes]:
        """The next `n` as whole HTTP messages; `traced`: each with a header of its own, as behind a gateway that numbers requests."""
        first = self._next
        return [HEAD % (b"X-Request-Id: %d\r\n" % (first + n) if traced else b"", len(body), body) for n, body in enumerate(self.bodies(n))]

    def _body(self, number: int) -> bytes:
        turn, row = divmod(number, len(self._ledger.second))
        if row not in self._components:
            self._components[row] = json.dumps(self._ledger.v[row].tolist(), separators=(",", ":"))
        second, amount = int(self._ledger.second[row]) + turn * self._turn_s, int(self._ledger.cents[row]) / 100
        return f'{{"id":"{self._name}-{number}","time":{second},"amount":{amount!r},"v":{self._components[row]}}}'.encode()
