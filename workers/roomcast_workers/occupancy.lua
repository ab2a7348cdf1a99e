-- Tell that channels are occupied or vacated: each change once, whoever heard of it how often, and only by the worker that
-- holds the lease. What finds no room in the stream is not told, and not noted either: it is found again.
-- KEYS[1] stream; KEYS[2] channels that were told to be occupied, a set; KEYS[3] lease
-- ARGV[1] how many entries the stream may hold; ARGV[2] who must hold the lease
-- ARGV[3...] of each change: the channel; SADD if it is occupied, SREM if it is vacated; the event, '' if it is
--   only noted
-- Returns how many found no room; -1 if the lease is not held.
if redis.call('GET', KEYS[3]) ~= ARGV[2] then
  return -1
end
local room = tonumber(ARGV[1]) - redis.call('XLEN', KEYS[1])
local refused = 0
for i = 3, #ARGV, 3 do
  local is_occupied = redis.call('SISMEMBER', KEYS[2], ARGV[i]) == 1
  if is_occupied ~= (ARGV[i + 1] == 'SADD') then
    local event = ARGV[i + 2]
    if event == '' or room > 0 then
      redis.call(ARGV[i + 1], KEYS[2], ARGV[i])
      if event ~= '' then
        redis.call('XADD', KEYS[1], '*', 'event', event)
        room = room - 1
      end
    else
      refused = refused + 1
    end
  end
end
return refused
