-- Read a channel's position and the publications after another one; create the position if there is none yet.
-- KEYS[1] meta, see position.lua; KEYS[2] stream
-- ARGV[1] an epoch, in case a new one is needed; ARGV[2] TTL of the meta, ms, 0: none once a map has keys
-- ARGV[3] positions that the node has seen: '12:5f0c2a91 ...', '' for none
-- ARGV[4] offset and ARGV[5] epoch of the reader, '' for none; ARGV[6] limit; ARGV[7] 'newest' for the newest
--   publications, newest first, '' for the oldest
-- ARGV[8] offset and ARGV[9] epoch before which to read, '' for none
-- Returns { offset, epoch, base, entries, jumps, former }; base is -1 if the meta has what no node has written.
local position = position_of(KEYS[1], ARGV[1], ARGV[3])
if not position then
  return { 0, '', -1, {}, '', '' }
end
local epoch, base = position.epoch, position.base
local entries = {}
local limit, last = tonumber(ARGV[6]), '+'
if ARGV[9] ~= '' then
  last = '(' .. ARGV[8] .. '-0'
  if ARGV[9] ~= epoch or ARGV[8] == '0' then -- nothing is before it, and Redis rejects the range
    limit = 0
  end
end
if limit > 0 and not position.is_new then
  local since = 0
  if ARGV[5] == epoch then
    since = tonumber(ARGV[4])
  elseif ARGV[5] ~= '' then
    since = math.min(base, tonumber(ARGV[4]))
  end
  local first = string.format('(%.0f-0', since)
  if ARGV[7] == 'newest' then
    entries = redis.pcall('XREVRANGE', KEYS[2], last, first, 'COUNT', limit)
  else
    entries = redis.pcall('XRANGE', KEYS[2], first, last, 'COUNT', limit)
  end
  if entries.err then
    if not string.find(tostring(entries.err), 'WRONGTYPE') then
      return entries
    end
    entries = {} -- another program has written a key of another type: publish.lua replaces it
  end
end
-- Written after all that can be refused. A position that is there is read even where nothing may be written: it is kept
-- alive only where it can be.
if position.is_new then
  ask('DEL', KEYS[2])
end
if position.has_changed then
  local write = position.starts and redis.call or redis.pcall
  write('HSET', KEYS[1], 'offset', position.offset, 'epoch', epoch, 'base', base, 'home', position.home,
    'jumps', position.jumps, 'former', position.former)
end
if position.is_new then
  redis.call('DEL', KEYS[2])
end
local ttl = ARGV[2]
if ttl == '0' then
  local left = redis.pcall('PTTL', KEYS[1])
  ttl = (position.is_new or type(left) == 'number' and left >= 0) and EMPTY_TTL or nil
end
if ttl then
  redis.pcall('PEXPIRE', KEYS[1], ttl)
end
return { position.offset, epoch, base, entries, position.jumps, position.former }
