-- Read a channel's position and the publications after another one; create the position if there is none yet.
-- KEYS[1] meta, a hash: epoch, offset, base (the offset at which the epoch started), home (the server on which it started,
--   if that had been promoted); KEYS[2] stream
-- ARGV[1] an epoch, in case a new one is needed; ARGV[2] TTL of the meta, ms
-- ARGV[3] offset and ARGV[4] epoch that a node has seen, '' for none
-- ARGV[5] offset and ARGV[6] epoch of the reader, '' for none; ARGV[7] limit; ARGV[8] 'newest' for the newest
--   publications, newest first, '' for the oldest
-- ARGV[9] offset and ARGV[10] epoch before which to read, '' for none
-- Returns { offset, epoch, base, entries }.
-- A promoted server has a new replication id. Publications that the former server had and it has not are lost, maybe unseen
-- by the node that reads: so a new epoch starts. INFO costs 4 us; it is skipped for an ACL user that may not call it.
local replid, former = string.match(tostring(redis.pcall('INFO', 'replication')), 'master_replid:(%x+).-master_replid2:(%x+)')
local home = former and string.find(former, '[^0]') and replid or ''
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'offset', 'base', 'home')
local epoch, offset, base = meta[1], tonumber(meta[2] or 0), tonumber(meta[3] or 0)
local has_changed = true
if not epoch then
  epoch, offset, base = ARGV[1], 0, 0
elseif home ~= '' and home ~= meta[4] or ARGV[4] == epoch and tonumber(ARGV[3]) > offset then
  -- A failover has lost the tail. Its offsets are used again, so a new epoch starts.
  epoch, base = ARGV[1], offset
else
  has_changed = false
end
local entries = {}
local limit, last = tonumber(ARGV[7]), '+'
if ARGV[10] ~= '' then
  last = '(' .. ARGV[9] .. '-0'
  if ARGV[10] ~= epoch or ARGV[9] == '0' then -- nothing is before it, and Redis rejects the range
    limit = 0
  end
end
if limit > 0 and meta[1] then
  local since = 0
  if ARGV[6] == epoch then
    since = tonumber(ARGV[5])
  elseif ARGV[6] ~= '' then
    since = math.min(base, tonumber(ARGV[5]))
  end
  local first = string.format('(%.0f-0', since)
  if ARGV[8] == 'newest' then
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
if not meta[1] then
  ask('DEL', KEYS[2])
end
if has_changed then
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'offset', offset, 'base', base, 'home', home)
end
if not meta[1] then
  redis.call('DEL', KEYS[2])
end
redis.pcall('PEXPIRE', KEYS[1], ARGV[2])
return { offset, epoch, base, entries }
