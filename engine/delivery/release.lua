-- Give back the reservation of a push that certainly did not leave.
--
-- KEYS[1]  the user's log (see reserve.lua)
-- ARGV[1]  push id, 32 hexadecimal digits
-- ARGV[2]  highest fencing number to release: a reservation that a later claim has taken over stays
--
-- Returns the number of reservations freed: 0 or 1. A repeat changes nothing.

local text = redis.call('GET', KEYS[1])
if not text or not string.find(text, ARGV[1], 1, true) then return 0 end
local kept, freed = {}, 0
for line in string.gmatch(text, '[^\n]+') do
  if freed == 0 and string.sub(line, 23, 54) == ARGV[1]
    and tonumber(string.match(line, '^%d+', 55)) <= tonumber(ARGV[2]) then
    freed = 1
  else
    kept[#kept + 1] = line .. '\n'
  end
end
if freed == 1 then redis.call('SET', KEYS[1], table.concat(kept), 'KEEPTTL') end
return freed
