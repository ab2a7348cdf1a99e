-- Report that a node is alive, unless its lease has ended.
-- KEYS[1] the lease's report; ARGV[1] the report; ARGV[2] its TTL, ms; ARGV[3] the value of a lease that has ended
-- Returns 1, 2 if there was no report: it is the first one, or Redis has lost the last; 0 if the lease has ended.
local is_text = redis.call('TYPE', KEYS[1]).ok == 'string'
local report = is_text and redis.call('GET', KEYS[1])
if report == ARGV[3] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return is_text and 1 or 2
