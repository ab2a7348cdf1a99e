-- Add events to the webhook stream, as long as there is room: what is refused is the newest, so what is kept has no holes.
-- KEYS[1] stream; ARGV[1] how many it may hold; ARGV[2...] events
-- Returns how many were added.
local room = tonumber(ARGV[1]) - redis.call('XLEN', KEYS[1])
local count = math.max(0, math.min(room, #ARGV - 1))
for i = 2, count + 1 do
  redis.call('XADD', KEYS[1], '*', 'event', ARGV[i])
end
return count
