-- Acquire the lease if it is free, or extend it.
-- KEYS[1] lease key
-- ARGV[1] owner; ARGV[2] TTL, ms; ARGV[3] longest TTL of any worker's lease, ms
-- Returns 1 if the owner holds it now, 0 if another one does.
local holder = redis.call('TYPE', KEYS[1]).ok == 'string' and redis.call('GET', KEYS[1])
local left = redis.call('PTTL', KEYS[1])
-- No worker has written a key of another type, or one without a TTL. A longer one is of before Redis' clock was set back.
if holder and holder ~= ARGV[1] and left > 0 and left <= tonumber(ARGV[3]) then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
