-- Take the lease if it is free, keep it if it is mine.
-- KEYS[1] lease key
-- ARGV[1] who I am; ARGV[2] how long the lease holds, ms
-- Returns 1 if I hold it now, 0 if somebody else does.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
