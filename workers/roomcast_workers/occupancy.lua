-- Report that channels are occupied or vacated: each change once, however often it was received, and only by the worker
-- that holds the lease. A change that does not fit into the stream is not recorded, so that it is detected again.
-- KEYS[1] stream; KEYS[2] channels that were reported as occupied, a set that also has '', so that its loss is noticed;
--   KEYS[3] lease
-- ARGV[1] maximum length of the stream; ARGV[2] required owner of the lease; ARGV[3] '1' to create the set
-- ARGV[4...] for each change: the channel; SADD if it is occupied, SREM if it is vacated; the event, '' if it is only
--   recorded
-- Returns how many changes did not fit; -1 if the lease is not held; -2 if the set is lost.
if redis.call('GET', KEYS[3]) ~= ARGV[2] then
  return -1
end
if redis.call('SISMEMBER', KEYS[2], '') == 0 and ARGV[3] == '' then
  return -2
end
ask('SADD', KEYS[2], 'channel')
ask('SREM', KEYS[2], 'channel')
ask('XADD', KEYS[1], '*', 'event', '')
local room = tonumber(ARGV[1]) - redis.call('XLEN', KEYS[1])
if ARGV[3] ~= '' then
  redis.call('SADD', KEYS[2], '')
end
local rejected = 0
for i = 4, #ARGV, 3 do
  local is_occupied = redis.call('SISMEMBER', KEYS[2], ARGV[i]) == 1
  if is_occupied ~= (ARGV[i + 1] == 'SADD') then
    local event = ARGV[i + 2]
    if event == '' or room > 0 then
      if event ~= '' then
        redis.call('XADD', KEYS[1], '*', 'event', event)
        room = room - 1
      end
      redis.call(ARGV[i + 1], KEYS[2], ARGV[i])
    else
      rejected = rejected + 1
    end
  end
end
return rejected
