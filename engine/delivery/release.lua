-- Give back the reservation of a push that certainly did not leave.
--
-- KEYS[1]  the user's log (see reserve.lua)
-- ARGV[1]  push id, 16 bytes
-- ARGV[2]  highest fencing number to release: a reservation that a later claim has taken over stays
--
-- Returns the number of reservations freed: 0 or 1. A repeat changes nothing.

local packed = redis.call('GET', KEYS[1])
if not packed or packed == '' then return 0 end
local log = cmsgpack.unpack(packed)
for i = 1, #log, 5 do
  if log[i + 2] == ARGV[1] and log[i + 3] <= tonumber(ARGV[2]) then
    for k = 1, 5 do table.remove(log, i) end
    redis.call('SET', KEYS[1], #log > 0 and cmsgpack.pack(log) or '', 'KEEPTTL')
    return 1
  end
end
return 0
