-- Build a user's log from the ledger, unless it is there already.
--
-- KEYS[1]  the user's log (see reserve.lua)
-- ARGV[1]  seconds of machine time until an unused log may go
-- ARGV[2]  the log
--
-- Returns 1 where it was built, 0 where another process had built it.

return redis.call('SET', KEYS[1], ARGV[2], 'NX', 'EX', ARGV[1]) and 1 or 0
