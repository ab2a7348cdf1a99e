-- Remove the keys of a map and its history, start another epoch, and notify the nodes.
-- KEYS[1] to KEYS[5], ARGV[1] to ARGV[5]: see map_change.lua; ARGV[6] the message to the nodes
-- Returns 1, or 0 if the meta has what no node has written.
local map = map_of(KEYS, ARGV)
if not map then
  return 0
end
if not map.position.starts then
  start_epoch(map.position, ARGV[3], map.position.offset)
end
ask_for_changes(map)
redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[5]) -- first, so that full memory refuses nothing
map.bytes = 0
save(map)
keep_alive(map)
redis.call(ARGV[1], ARGV[2], ARGV[6])
return 1
