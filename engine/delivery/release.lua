-- Give back the reservation of a push that certainly did not leave.
--
-- KEYS[1]  the user's log (see reserve.lua)
-- ARGV[1]  push id, 32 hexadecimal digits
-- ARGV[2]  highest fencing number to release: a reservation that a later claim has taken over stays
--
-- Returns the number of reservations freed: 0 or 1. A repeat changes nothing.

for _, entry in ipairs(redis.call('ZRANGE', KEYS[1], 0, -2)) do
  if string.sub(entry, 23, 54) == ARGV[1] and tonumber(string.match(entry, '^%d+', 55)) <= tonumber(ARGV[2]) then
    return redis.call('ZREM', KEYS[1], entry)
  end
end
return 0
