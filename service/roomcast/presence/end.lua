-- End a lease, unless its node has reported again. It never starts again.
-- KEYS[1] the lease's report; ARGV[1] the last report that was seen, '' for none; ARGV[2] the value of a lease that has ended;
-- ARGV[3] its TTL, ms
-- Returns 1 if the lease has ended.
local report = redis.call('TYPE', KEYS[1]).ok == 'string' and redis.call('GET', KEYS[1]) or ''
if report ~= ARGV[1] and report ~= ARGV[2] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
