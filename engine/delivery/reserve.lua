-- Check every cap of one user and take them all, or none, by the id of the push.
--
-- KEYS[1]  the user's log: a sorted set of live reservations, score = business instant in microseconds since 1970
-- ARGV[1]  a JSON array: id, fence, at, day, scopes, keep_since, ttl, then three values per cap: since, most, scope
--
--   id          push id, 32 hexadecimal digits
--   fence       fencing number of the claim, a number
--   at          business instant, 16 digits of microseconds: instants compare as strings
--   day         the user's calendar day, 6 digits (proleptic ordinal)
--   scopes      "\31scope\31scope\31": what this push counts under; "" where it counts toward nothing (checked, not kept)
--   keep_since  entries before this instant are dropped, 16 digits
--   ttl         seconds of machine time after which an unused log may go: a log that is not there is rebuilt
--   since       16 digits: entries at or after this instant count; 6 digits: entries of this day or a later one
--   most        the cap; 0 admits nothing
--   scope       "\31scope\31", or "" for all
--
-- Returns 0: granted (a repeat of a granted reservation changes nothing but a newer fence, which takes it over);
-- n > 0: the nth cap refuses, nothing was written; -1: there is no log, it must be rebuilt from the ledger.
--
-- An entry is at .. day .. id .. fence .. scopes. The last entry (score inf) marks a log that was built. Entries later
-- than `at` count too: clocks of two hosts differ a little, and then the stricter reading is taken.

local log = redis.call('ZRANGE', KEYS[1], 0, -1)
local live = #log - 1
if live < 0 then return -1 end
local find, sub = string.find, string.sub
local asked = cjson.decode(ARGV[1])
local id, fence, at = asked[1], asked[2], asked[3]

local own = 0
if find(table.concat(log), id, 1, true) then -- one search where the common answer is no
  for i = 1, live do
    if sub(log[i], 23, 54) == id then own = i end
  end
end
if own > 0 and sub(log[own], 1, 16) >= at then
  local entry = log[own]
  if tonumber(string.match(entry, '^%d+', 55)) < fence then
    redis.call('ZREM', KEYS[1], entry)
    redis.call('ZADD', KEYS[1], sub(entry, 1, 16), sub(entry, 1, 54) .. string.format('%d', fence) .. asked[5])
  end
  return 0
end

local days
for c = 8, #asked, 3 do
  local since, left, scope = asked[c], asked[c + 1], asked[c + 2]
  if #since == 6 then
    if not days then
      days = {}
      for i = 1, live do days[i] = sub(log[i], 17, 22) end
    end
    for i = 1, live do
      if days[i] >= since and i ~= own and (scope == '' or find(log[i], scope, 56, true)) then left = left - 1 end
    end
  else
    for i = live, 1, -1 do
      local entry = log[i]
      if entry < since then break end
      if i ~= own and (scope == '' or find(entry, scope, 56, true)) then left = left - 1 end
    end
  end
  if left <= 0 then return (c - 5) / 3 end
end

if live > 0 and log[1] < asked[6] then redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. asked[6]) end
if asked[5] ~= '' then
  if own > 0 then redis.call('ZREM', KEYS[1], log[own]) end
  redis.call('ZADD', KEYS[1], at, at .. asked[4] .. id .. string.format('%d', fence) .. asked[5])
  redis.call('EXPIRE', KEYS[1], asked[7])
end
return 0
