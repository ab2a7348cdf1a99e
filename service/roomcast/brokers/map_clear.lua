-- Remove the keys of a map and its history, start another epoch, and notify the nodes.
-- KEYS[1] to KEYS[5], ARGV[1] to ARGV[9]: see map_change.lua; ARGV[10] the message to the nodes
-- Returns 1, or 0 if the meta has what no node has written.
local map = map_of(KEYS, ARGV)
if not map then
  return 0
end
if not map.position.starts then
  start_epoch(map.position, ARGV[3], map.position.offset)
end
start_over(map)
keep_alive(map)
redis.call(ARGV[1], ARGV[2], ARGV[10])
return 1
