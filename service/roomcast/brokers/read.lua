-- Read a channel's position and what follows another one; make the position if there is none yet.
-- KEYS[1] meta, a hash: epoch, offset, base (the offset at which the epoch began), home (where it
--   began, if that server had been promoted); KEYS[2] stream
-- ARGV[1] an epoch, should a new one be needed; ARGV[2] how long the meta is kept, ms
-- ARGV[3] offset and ARGV[4] epoch that somebody has seen, '' for none
-- ARGV[5] offset and ARGV[6] epoch of what the reader has, '' for none; ARGV[7] how many at most; ARGV[8] 'newest' if the
--   newest are wanted, newest first, else '' for the oldest
-- ARGV[9] offset and ARGV[10] epoch before which all that is wanted stands, '' for none
-- Returns { offset, epoch, base, entries }.
-- A server that was promoted has a replication id of its own from then on. What the one before it had taken, and it has not,
-- is lost, maybe without that anybody who asks has seen it: so the epoch ends there. INFO costs 4 us; a user who may not call
-- it does without.
local replid, former = string.match(tostring(redis.pcall('INFO', 'replication')), 'master_replid:(%x+).-master_replid2:(%x+)')
local home = former and string.find(former, '[^0]') and replid or ''
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'offset', 'base', 'home')
local epoch, offset, base = meta[1], tonumber(meta[2] or 0), tonumber(meta[3] or 0)
if not epoch then
  epoch = ARGV[1]
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'offset', 0, 'base', 0, 'home', home)
  offset, base = 0, 0
elseif home ~= '' and home ~= meta[4] or ARGV[4] == epoch and tonumber(ARGV[3]) > offset then
  -- What was seen is no more: a failover has lost the tail. Its numbers are given out again, so the epoch ends here.
  epoch, base = ARGV[1], offset
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'base', base, 'home', home)
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local entries = {}
local limit, last = tonumber(ARGV[7]), '+'
if ARGV[10] ~= '' then
  last = '(' .. ARGV[9] .. '-0'
  if ARGV[10] ~= epoch or ARGV[9] == '0' then -- nothing is before it, and Redis refuses to look for it
    limit = 0
  end
end
if limit > 0 then
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
    -- Somebody else has put something there that is no stream.
    redis.call('DEL', KEYS[2])
    entries = {}
  end
end
return { offset, epoch, base, entries }
