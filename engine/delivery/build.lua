-- Build a user's log from the ledger, unless it is there already.
--
-- KEYS[1]  the user's log (see reserve.lua)
-- ARGV[1]  seconds of machine time until an unused log may go
-- ARGV[2…] the entries; the score of each is its first 16 digits
--
-- Returns 1 where it was built, 0 where another process had built it.

if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('ZADD', KEYS[1], 'inf', '~')
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], string.sub(ARGV[i], 1, 16), ARGV[i]) end
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 1
