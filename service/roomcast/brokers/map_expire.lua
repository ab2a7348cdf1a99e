-- Remove keys of a map whose time is over, and publish each removal.
-- KEYS[1] to KEYS[5], ARGV[1] to ARGV[5]: see map_change.lua
-- Returns the ms until the next key expires, 0 if more are due, -1 if none expires, -2 if the meta has what no node has
--   written.
local now = now_ms()
local function next_ms()
  local first = redis.call('ZRANGE', KEYS[5], 0, 0, 'WITHSCORES')
  return first[1] and math.min(math.max(0, math.ceil(tonumber(first[2]) - now)), 2 ^ 52) or -1
end
local wait = next_ms()
local has_others = redis.call('ZCARD', KEYS[4]) > redis.call('ZCARD', KEYS[5])
if wait ~= 0 and not has_others then
  return wait
end
local map = map_of(KEYS, ARGV)
if not map then
  return -2
end
if map.is_void then
  start_over(map)
  keep_alive(map)
  return -1
end
expire_keys(map, due_keys(map, now), now)
if has_others then
  add_deadlines(map, now)
end
return next_ms()
