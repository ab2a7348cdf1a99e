-- Publish with an offset, add it to the stream, and set its idempotency key: one step, so stream order is publish order.
-- KEYS[1] meta, a hash: epoch, offset, base, home, version; KEYS[2] stream; KEYS[3] idempotency key, a hash: offset, epoch;
--   KEYS[4] lease
-- ARGV[1] PUBLISH or SPUBLISH; ARGV[2] topic; ARGV[3] j (JSON), t (other text) or b (binary); ARGV[4] payload
-- ARGV[5] an epoch, in case a new one is needed; ARGV[6] the number of publications to keep, 0: none
-- ARGV[7] TTL of the stream, ms; ARGV[8] TTL of the meta, ms
-- ARGV[9] offset and ARGV[10] epoch that the publisher has seen, '' for none
-- ARGV[11] TTL of the idempotency key, ms, '' without one
-- ARGV[12] version, '' without one; ARGV[13] version epoch: versions restart in another one
-- ARGV[14] the owner that must hold the lease, '' for none
-- ARGV[15] tags and info of the publication, JSON, '' for none
-- Returns { offset, epoch, receivers }; receivers is -1 if it was published before, -2 if a newer version was, -3 if the
--   lease is not held. Without a history the offset is 0.
if ARGV[14] ~= '' and redis.call('GET', KEYS[4]) ~= ARGV[14] then
  return { 0, '', -3 }
end
if ARGV[11] ~= '' then
  local before = redis.call('HMGET', KEYS[3], 'offset', 'epoch')
  if before[1] then
    return { tonumber(before[1]), before[2], -1 }
  end
end
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'offset', 'version', 'version_epoch', 'home')
local epoch, offset = meta[1], tonumber(meta[2] or 0)
if ARGV[12] ~= '' then
  if meta[3] and meta[4] == ARGV[13] and tonumber(ARGV[12]) <= tonumber(meta[3]) then
    return { offset, epoch or '', -2 }
  end
end
ask(ARGV[1], ARGV[2], '')
ask('HSET', KEYS[1], 'offset', 0)
ask('PEXPIRE', KEYS[1], 0)
local header, payload = '\1' .. ARGV[3], ARGV[4]
if ARGV[6] == '0' then
  epoch, offset = '', 0
else
  -- See read.lua: where the epoch started, and where the tail may be lost.
  local replid, former = string.match(tostring(redis.pcall('INFO', 'replication')), 'master_replid:(%x+).-master_replid2:(%x+)')
  local home = former and string.find(former, '[^0]') and replid or ''
  local base
  if not epoch then
    epoch, offset, base = ARGV[5], 0, 0
    ask('DEL', KEYS[2])
    ask('XADD', KEYS[2], '*', 'k', '')
    redis.call('HSET', KEYS[1], 'epoch', epoch) -- first: full memory does not refuse DEL, nor any write after it
    redis.call('DEL', KEYS[2])
  elseif home ~= '' and home ~= meta[5] or ARGV[10] == epoch and tonumber(ARGV[9]) > offset then
    epoch, base = ARGV[5], offset
  end
  offset = offset + 1
  local id, added = string.format('%.0f-0', offset), nil
  if ARGV[15] == '' then -- a separate call: passing a table costs 4 % of publishing
    added = redis.pcall('XADD', KEYS[2], 'MAXLEN', ARGV[6], id, 'k', ARGV[3], 'd', ARGV[4])
  else
    added = redis.pcall('XADD', KEYS[2], 'MAXLEN', ARGV[6], id, 'k', ARGV[3], 'd', ARGV[4], 'm', ARGV[15])
  end
  if type(added) == 'table' and added.err then
    local reason = tostring(added.err)
    if not (string.find(reason, 'WRONGTYPE') or string.find(reason, 'equal or smaller') or string.find(reason, 'exhausted')) then
      return added -- the first write is refused: nothing has changed
    end
    -- Another program has written into the stream: it is deleted, and a new epoch starts.
    epoch, base = ARGV[5], offset - 1
    redis.call('DEL', KEYS[2])
    local about = ARGV[15] ~= '' and { 'm', ARGV[15] } or {}
    redis.call('XADD', KEYS[2], id, 'k', ARGV[3], 'd', ARGV[4], unpack(about))
  end
  if base then
    redis.call('HSET', KEYS[1], 'offset', offset, 'epoch', epoch, 'base', base, 'home', home)
  else
    redis.call('HSET', KEYS[1], 'offset', offset)
  end
  redis.call('PEXPIRE', KEYS[1], ARGV[8])
  redis.call('PEXPIRE', KEYS[2], ARGV[7])
  header = header .. string.format('%.0f', offset) .. ',' .. epoch
end
if ARGV[12] ~= '' then
  redis.call('HSET', KEYS[1], 'version', ARGV[12], 'version_epoch', ARGV[13])
  redis.call('PEXPIRE', KEYS[1], ARGV[8])
end
if ARGV[15] ~= '' then
  if offset == 0 then
    header = header .. ','
  end
  header, payload = header .. ',' .. #ARGV[15], ARGV[15] .. payload
end
if ARGV[11] ~= '' then
  redis.call('HSET', KEYS[3], 'offset', offset, 'epoch', epoch)
  redis.call('PEXPIRE', KEYS[3], ARGV[11])
end
return { offset, epoch, redis.call(ARGV[1], ARGV[2], header .. '\n' .. payload) }
