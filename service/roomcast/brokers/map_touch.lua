-- Let keys of a map expire as late as after a write.
-- KEYS[1] to KEYS[5], ARGV[1] to ARGV[5]: see map_change.lua; ARGV[6] keys, each with a newline behind it
-- Returns the keys that are absent, or -1 if the meta has what no node has written.
local map = map_of(KEYS, ARGV)
if not map then
  return -1
end
local absent, present = {}, {}
for key in string.gmatch(ARGV[6], '([^\n]+)\n') do
  local keys = not map.is_void and redis.call('HEXISTS', KEYS[3], key) == 1 and present or absent
  keys[#keys + 1] = key
end
if #present > 0 and map.options.key_ttl ~= '0' then
  redis.call('ZCARD', KEYS[5])
  local deadline = string.format('%.0f', now_ms() + map.options.key_ttl)
  ask('PEXPIRE', KEYS[1], 0)
  for _, key in ipairs(present) do
    redis.call('ZADD', KEYS[5], deadline, key)
  end
  keep_alive(map)
end
return absent
