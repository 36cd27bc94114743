"""The windows in Redis, where several replicas of the service share them. Same statistics as the embedded ones, to the last bit.

One script call a batch, so a batch is atomic and costs one round trip. Redis keeps whole numbers only (exact up to 2^53 cents an hour)
and the means are formed here. An id is remembered for two hours with what it found: a client's retry, after a crash between Redis
and the log, is told the same again and counted once. That memory is the price (200 bytes an id); Redis must not evict (noeviction).

Refuses to answer without Redis, for other statistics would be other decisions. Never shows the password of its URL.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Lost
from redis.exceptions import RedisError
from redis.retry import Retry

from lib.pipelines.fraud.windows import Event, Stats, Unavailable, stats

CONNECT_S, COMMAND_S = 0.5, 0.25
ID_KEPT_S = 2 * 3600
STATE_KEPT_S = 24 * 3600  # of silence, by Redis's clock; after that the stream starts anew

# State, one string of doubles: newest second, then n and cents of the minute and of the hour, then n and cents of 60 seconds and of 60
# minutes. KEYS: state, then an id each. ARGV: seconds to keep the state and an id, then second and cents of each event.
SCRIPT = """
local state = redis.call('GET', KEYS[1])
if not state then
  state = struct.pack('<ddddd', -1, 0, 0, 0, 0) .. string.rep('\\0', 120 * 16)
  redis.call('SET', KEYS[1], state)
end
local newest, n, cents, hour_n, hour_cents = struct.unpack('<ddddd', state)
local touched, told = {}, {}

local function bucket(slot)
  if not touched[slot] then
    local n, cents = struct.unpack('<dd', state, 41 + slot * 16)
    touched[slot] = {n, cents}
  end
  return touched[slot]
end

local function advance(ring, from, to)
  local n, cents = 0, 0
  for tick = math.max(from + 1, to - 59), to do
    local gone = bucket(ring + tick % 60)
    n, cents = n + gone[1], cents + gone[2]
    gone[1], gone[2] = 0, 0
  end
  return n, cents
end

local function add(slot, cents)
  local into = bucket(slot)
  into[1], into[2] = into[1] + 1, into[2] + cents
end

local function minute(second) return (second - second % 60) / 60 end  -- exact, also for the -1 before the first event

for i = 2, #KEYS do
  local known = redis.call('GET', KEYS[i])
  if not known then
    local second, amount = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
    if second > newest then
      local gone_n, gone_cents = advance(0, newest, second)
      n, cents = n - gone_n, cents - gone_cents
      gone_n, gone_cents = advance(60, minute(newest), minute(second))
      hour_n, hour_cents = hour_n - gone_n, hour_cents - gone_cents
      newest = second
    end
    known = struct.pack('<dddd', n, cents, hour_n, hour_cents)
    if second > newest - 60 then
      add(second % 60, amount)
      n, cents = n + 1, cents + amount
    end
    if minute(second) > minute(newest) - 60 then
      add(60 + minute(second) % 60, amount)
      hour_n, hour_cents = hour_n + 1, hour_cents + amount
    end
    redis.call('SET', KEYS[i], known, 'EX', ARGV[2])
  end
  told[i - 1] = known
end

for slot, now in pairs(touched) do
  redis.call('SETRANGE', KEYS[1], 40 + slot * 16, struct.pack('<dd', now[1], now[2]))
end
redis.call('SETRANGE', KEYS[1], 0, struct.pack('<ddddd', newest, n, cents, hour_n, hour_cents))
redis.call('EXPIRE', KEYS[1], ARGV[1])
return table.concat(told)
"""
FOUND = struct.Struct("<dddd")


class RedisWindows:
    """The windows of one `stream` at `url` (redis://, rediss://, unix://, with a database number). One thread.

    Raises ValueError for a URL that is none. Connects at the first use; `newest` is the cheap way to ask whether it can.
    """

    name = "redis"

    def __init__(self, url: str, stream: str = "fraud") -> None:
        try:
            self._redis = Redis.from_url(  # a lost connection is tried once more: ids make that harmless. A timeout is not, time is up
                url, socket_connect_timeout=CONNECT_S, socket_timeout=COMMAND_S, decode_responses=False,
                retry=Retry(NoBackoff(), 1, supported_errors=(Lost,)))
        except ValueError:  # redis-py's message may quote a part of the password
            raise ValueError("REDIS_URL is not a Redis address: write redis://[:password@]host:port/database or unix:///path?db=0, "
                             "with reserved characters of the password percent-encoded") from None
        at = self._redis.connection_pool.connection_kwargs
        self._where = f"{at.get('path') or '{}:{}'.format(at.get('host', 'localhost'), at.get('port', 6379))}, database {at.get('db') or 0}"
        self._script = self._redis.register_script(SCRIPT)  # loads itself again when a restarted Redis has forgotten it
        self._state, self._id = f"{{{stream}}}:windows:1", f"{{{stream}}}:id:"

    def observe(self, events: Sequence[Event]) -> list[Stats]:
        """As Windows.observe, but for an id seen before: told again what it found then, and not added. Raises Unavailable."""
        keys, numbers = [self._state], [STATE_KEPT_S, ID_KEPT_S]
        for id_, second, cents in events:
            keys.append(self._id + id_)
            numbers += second, cents
        try:
            told: bytes = self._script(keys=keys, args=numbers)
        except RedisError as error:
            raise self._unavailable(error) from error
        return [stats(int(n), int(cents), int(hour_n), int(hour_cents)) for n, cents, hour_n, hour_cents in FOUND.iter_unpack(told)]

    def newest(self) -> int | None:
        """As Windows.newest. Raises Unavailable."""
        try:
            told = self._redis.getrange(self._state, 0, 7)
        except RedisError as error:
            raise self._unavailable(error) from error
        assert isinstance(told, bytes)  # nothing is decoded here
        second = int(struct.unpack("<d", told)[0]) if told else -1
        return second if second >= 0 else None

    def close(self) -> None:
        self._redis.close()

    def _unavailable(self, error: RedisError) -> Unavailable:
        return Unavailable(f"the windows in Redis at {self._where} cannot be used: {error}. "
                           "Start or mend that Redis; or unset REDIS_URL to keep them in this process, for one replica alone")
