-- For each reservation: check every cap of its user and take them all, or none, by the id of the push.
--
-- KEYS[n]  the log of the nth reservation's user: live reservations as one MessagePack array of at, day, id, fence,
--          scopes, at, day, …; empty where there are none, absent where it was not built
-- ARGV[n]  packed: id, fence, at, day, early, today, monday, keep (the id 16 bytes, the others big-endian doubles), then
--          the scopes as text
--
--   id       push id, 16 bytes
--   fence    fencing number of the claim
--   at       business instant, microseconds since 1970
--   day      the user's calendar day it counts for, as proleptic ordinal
--   early    the instant from which rolling windows look back: at less the attempt deadline
--   today    the user's calendar day at `at`, and the Monday of its week
--   keep     entries before this instant are dropped
--   scopes   "\31scope\31scope\31": what this push counts under; "" where it counts toward nothing (checked, not kept)
--
-- Returns a number for each, 0: granted (a repeat of a granted reservation changes nothing but a newer fence, which takes it over);
-- n > 0: the nth rule refuses, nothing was written; -1: there is no log, it must be rebuilt from the ledger.
--
-- reserve.py puts the checks where @CHECKS@ stands, a script for each set of limits, and the life of a log for @LIFE@. Entries later than
-- `at` count too: clocks of two hosts differ a little, and then the stricter reading is taken. Numbers of one array are
-- compared in a third of the time of lines of text.

local find, sub, unpack_log, pack_log, call = string.find, string.sub, cmsgpack.unpack, cmsgpack.pack, redis.call

local function reserve(key, asked)
  local packed = call('GET', key)
  if not packed then return -1 end
  local id, fence, at, day, early, today, monday, keep = struct.unpack('>c16ddddddd', asked)
  local scopes = sub(asked, 73)
  local log = packed == '' and {} or unpack_log(packed)

  local own, old = 0, false
  for i = 1, #log, 5 do
    if log[i] < keep then old = true end
    if log[i + 2] == id then own = i end
  end

  local function store() -- all that is kept of the log, and this push
    local kept, n = log, #log
    if own > 0 or old then
      kept, n = {}, 0
      for i = 1, #log, 5 do
        if i ~= own and log[i] >= keep then
          for k = 0, 4 do kept[n + k + 1] = log[i + k] end
          n = n + 5
        end
      end
    end
    kept[n + 1], kept[n + 2], kept[n + 3], kept[n + 4], kept[n + 5] = at, day, id, fence, scopes
    call('SET', key, pack_log(kept), 'EX', @LIFE@)
  end

  if own > 0 and log[own] >= at then
    if log[own + 3] < fence then
      at, day = log[own], log[own + 1]
      store()
    end
    return 0
  end

@CHECKS@

  if scopes ~= '' then store() end
  return 0
end

local answers = {}
for n = 1, #KEYS do answers[n] = reserve(KEYS[n], ARGV[n]) end
return answers
