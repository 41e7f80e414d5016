-- Check every cap of one user and take them all, or none, by the id of the push.
--
-- KEYS[1]  the user's log: a string of live reservations, a line each; empty where there are none, absent where it was
--          not built
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
-- A line is at .. day .. id .. fence .. scopes .. "\n". Entries later than `at` count too: clocks of two hosts differ a
-- little, and then the stricter reading is taken. One string is read and written
-- in a third of a sorted set's time.

local text = redis.call('GET', KEYS[1])
if not text then return -1 end
local find, sub = string.find, string.sub
local asked = cjson.decode(ARGV[1])
local id, fence, at, keep = asked[1], asked[2], asked[3], asked[6]

local log, live, own, old = {}, 0, 0, false
local mine = find(text, id, 1, true)
local from, to = 1, find(text, '\n', 1, true)
while to do
  local line = sub(text, from, to - 1)
  live = live + 1
  log[live] = line
  if line < keep then old = true end
  if mine and sub(line, 23, 54) == id then own = live end
  from = to + 1
  to = find(text, '\n', from, true)
end

local function store(replaced, line) -- all that is kept of the log, and a new line instead of the one at `replaced`
  if replaced == 0 and not old then
    redis.call('APPEND', KEYS[1], line .. '\n') -- two calls, and still quicker than to write the whole
    redis.call('EXPIRE', KEYS[1], asked[7])
    return
  end
  local kept = {}
  for i = 1, live do
    if i ~= replaced and log[i] >= keep then kept[#kept + 1] = log[i] .. '\n' end
  end
  redis.call('SET', KEYS[1], table.concat(kept) .. line .. '\n', 'EX', asked[7])
end

if own > 0 and sub(log[own], 1, 16) >= at then
  local line = log[own]
  if tonumber(string.match(line, '^%d+', 55)) < fence then
    store(own, sub(line, 1, 54) .. string.format('%d', fence) .. asked[5])
  end
  return 0
end

local days
for c = 8, #asked, 3 do
  local since, left, scope = asked[c], asked[c + 1], asked[c + 2]
  if live >= left then -- a log shorter than the cap cannot break it
    local lines = log
    if #since == 6 then
      if not days then
        days = {}
        for i = 1, live do days[i] = sub(log[i], 17, 22) end
      end
      lines = days
    end
    for i = 1, live do
      if lines[i] >= since and i ~= own and (scope == '' or find(log[i], scope, 55, true)) then left = left - 1 end
    end
    if left <= 0 then return (c - 5) / 3 end
  end
end

if asked[5] ~= '' then
  store(own, at .. asked[4] .. id .. string.format('%d', fence) .. asked[5])
end
return 0
