"""How much a key may send: one token bucket a key, in Redis, shared by all API processes.

A bucket holds BURST_SECONDS of its rate. A request may enter while a token is left; what it turns out to carry is
charged afterwards and may leave a debt, so that nothing has to be parsed to be refused. The time is Redis' own: machine
time, the same for every process. Where Redis does not answer everything may enter: the store takes events without it,
and losing events would be worse than taking many.
"""

from __future__ import annotations

import math

import redis

BURST_SECONDS = 10
"""A bucket's size: a client that was offline sends what it kept."""

_TAKE = """
local now = redis.call('TIME')
now = now[1] + now[2] / 1e6
local rate, size, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local kept = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens, at = tonumber(kept[1]) or size, tonumber(kept[2]) or now
tokens = math.min(size, tokens + math.max(0, now - at) * rate)
local wait = 0
if ARGV[4] == '1' and tokens < 1 then
    wait = (1 - tokens) / rate
else
    tokens = tokens - cost
end
redis.call('HSET', KEYS[1], 'tokens', tostring(tokens), 'at', tostring(now))
redis.call('EXPIRE', KEYS[1], math.ceil(math.max(size - tokens, 1) / rate) + 60)
return tostring(wait)
"""


class Buckets:
    """The buckets of all keys."""

    def __init__(self, client: redis.Redis) -> None:
        self._take = client.register_script(_TAKE)

    def enter(self, key_id: str, rate: float, size: float | None = None) -> int:
        """Take a token of `key_id`, whose bucket gets `rate` a second and holds `size`, or BURST_SECONDS of its rate.
        0, or the seconds to wait (at least 1)."""
        return math.ceil(self._ask(key_id, [rate, size or rate * BURST_SECONDS, 1, 1]))

    def charge(self, key_id: str, rate: int, tokens: int) -> None:
        """Take `tokens` more for what has entered, into debt if need be."""
        if tokens > 0:
            self._ask(key_id, [rate, rate * BURST_SECONDS, tokens, 0])

    def _ask(self, key_id: str, arguments: list[float]) -> float:
        """What _TAKE answers; its arguments are rate, size, cost and whether a token is asked for."""
        try:
            return float(self._take([f"horae:rate:{key_id}"], arguments))
        except (redis.RedisError, OSError):
            return 0.0
