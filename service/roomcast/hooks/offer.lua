-- Add events to the webhook stream until it is full. The newest are rejected, so that the stream has no gaps.
-- KEYS[1] stream; ARGV[1] maximum length; ARGV[2...] events
-- Returns the number of added events.
local room = tonumber(ARGV[1]) - redis.call('XLEN', KEYS[1])
local count = math.max(0, math.min(room, #ARGV - 1))
for i = 2, count + 1 do
  redis.call('XADD', KEYS[1], '*', 'event', ARGV[i])
end
return count
