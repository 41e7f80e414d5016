-- Build a user's log from the ledger, unless it is there already.
--
-- KEYS[1]  the user's log (see reserve.lua)
-- ARGV[1]  seconds of machine time until an unused log may go
-- ARGV[2…]  an entry each, packed: at, day, id, fence (the id 16 bytes, the others big-endian doubles), then its scopes
--
-- Returns 1 where it was built, 0 where another process had built it.

local log, n = {}, 0
for i = 2, #ARGV do
  local at, day, id, fence = struct.unpack('>ddc16d', ARGV[i])
  log[n + 1], log[n + 2], log[n + 3], log[n + 4], log[n + 5] = at, day, id, fence, string.sub(ARGV[i], 41)
  n = n + 5
end
return redis.call('SET', KEYS[1], n > 0 and cmsgpack.pack(log) or '', 'NX', 'EX', ARGV[1]) and 1 or 0
