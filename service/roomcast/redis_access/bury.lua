-- Move an entry of the ingest stream to the dead letters: one step, so it is in one of the two and never in both.
-- KEYS[1] ingest stream; KEYS[2] dead letters, a stream
-- ARGV[1] the entry's id; ARGV[2] why it cannot be published; ARGV[3] how many dead letters are kept, about
-- ARGV[4] how many of its names and values are kept: Lua cannot pass any number of them on
-- Returns 1, or 0 if the entry is not there any more: another worker was faster.
local entry = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not entry then
  return 0
end
local kept = { unpack(entry[2], 1, math.min(#entry[2], tonumber(ARGV[4]))) }
kept[#kept + 1], kept[#kept + 2], kept[#kept + 3], kept[#kept + 4] = 'id', ARGV[1], 'reason', ARGV[2]
ask('XDEL', KEYS[1], ARGV[1])
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', unpack(kept))
return redis.call('XDEL', KEYS[1], ARGV[1])
