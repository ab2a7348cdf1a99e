-- Publish with an offset, add it to the stream, and set its idempotency key: one step, so stream order is publish order.
-- KEYS[1] meta, see position.lua, with version and version_epoch; KEYS[2] stream
-- KEYS[3] idempotency key, a hash: offset, epoch; KEYS[4] lease
-- ARGV[1] PUBLISH or SPUBLISH; ARGV[2] topic; ARGV[3] j (JSON), t (other text) or b (binary); ARGV[4] payload
-- ARGV[5] an epoch, in case a new one is needed; ARGV[6] the number of publications to keep, 0: none
-- ARGV[7] TTL of the stream, ms; ARGV[8] TTL of the meta, ms
-- ARGV[9] positions that the publisher has seen: '12:5f0c2a91 ...', '' for none
-- ARGV[10] TTL of the idempotency key, ms, '' without one
-- ARGV[11] version, '' without one; ARGV[12] version epoch: versions restart in another one
-- ARGV[13] the owner that must hold the lease, '' for none
-- ARGV[14] tags and info of the publication, JSON, '' for none
-- Returns { offset, epoch, receivers }; receivers is -1 if it was published before, -2 if a newer version was, -3 if the
--   lease is not held, -4 if the meta or the idempotency key has what no node has written. Without a history the offset is 0.
if ARGV[13] ~= '' and redis.call('GET', KEYS[4]) ~= ARGV[13] then
  return { 0, '', -3 }
end
if ARGV[10] ~= '' then
  local before = redis.call('HMGET', KEYS[3], 'offset', 'epoch')
  if before[1] then
    local offset, epoch = offset_in(before[1]), string.match(before[2] or '-', '^%w*$')
    return offset and epoch and { offset, epoch, -1 } or { 0, '', -4 }
  end
end
local position = position_of(KEYS[1], ARGV[5], ARGV[9])
if not position then
  return { 0, '', -4 }
end
if ARGV[11] ~= '' then
  local before = redis.call('HMGET', KEYS[1], 'version', 'version_epoch')
  if before[1] and (tonumber(before[1]) or 0.5) % 1 ~= 0 then -- also inf and nan
    return { 0, '', -4 }
  end
  if before[1] and before[2] == ARGV[12] and tonumber(ARGV[11]) <= tonumber(before[1]) then
    return position.starts and { 0, '', -2 } or { position.offset, position.epoch, -2 }
  end
end
ask(ARGV[1], ARGV[2], '')
ask('HSET', KEYS[1], 'offset', 0)
ask('PEXPIRE', KEYS[1], 0)
local header, payload, offset, epoch = '\1' .. ARGV[3], ARGV[4], 0, ''
if ARGV[6] ~= '0' then
  if position.is_new then
    ask('DEL', KEYS[2])
    ask('XADD', KEYS[2], '*', 'k', '')
    redis.call('HSET', KEYS[1], 'epoch', position.epoch) -- first: full memory does not refuse DEL, nor any write after it
    redis.call('DEL', KEYS[2])
  end
  offset = position.offset + 1
  local id, added = string.format('%.0f-0', offset), nil
  if ARGV[14] == '' then -- a separate call: passing a table costs 4 % of publishing
    added = redis.pcall('XADD', KEYS[2], 'MAXLEN', ARGV[6], id, 'k', ARGV[3], 'd', ARGV[4])
  else
    added = redis.pcall('XADD', KEYS[2], 'MAXLEN', ARGV[6], id, 'k', ARGV[3], 'd', ARGV[4], 'm', ARGV[14])
  end
  if type(added) == 'table' and added.err then
    local reason = tostring(added.err)
    if not (string.find(reason, 'WRONGTYPE') or string.find(reason, 'equal or smaller') or string.find(reason, 'exhausted')) then
      return added -- the first write is refused: nothing has changed
    end
    -- Another program has written into the stream: it is deleted, and a new epoch starts.
    start_epoch(position, ARGV[5], offset - 1)
    redis.call('DEL', KEYS[2])
    local about = ARGV[14] ~= '' and { 'm', ARGV[14] } or {}
    redis.call('XADD', KEYS[2], id, 'k', ARGV[3], 'd', ARGV[4], unpack(about))
  end
  epoch = position.epoch
  if position.has_changed then
    redis.call('HSET', KEYS[1], 'offset', offset, 'epoch', epoch, 'base', position.base, 'home', position.home,
      'jumps', position.jumps, 'former', position.former)
  else
    redis.call('HSET', KEYS[1], 'offset', offset)
  end
  redis.call('PEXPIRE', KEYS[1], ARGV[8])
  redis.call('PEXPIRE', KEYS[2], ARGV[7])
  header = header .. string.format('%.0f', offset) .. ',' .. epoch
end
if ARGV[11] ~= '' then
  redis.call('HSET', KEYS[1], 'version', ARGV[11], 'version_epoch', ARGV[12])
  redis.call('PEXPIRE', KEYS[1], ARGV[8])
end
if ARGV[14] ~= '' then
  if offset == 0 then
    header = header .. ','
  end
  header, payload = header .. ',' .. #ARGV[14], ARGV[14] .. payload
end
if ARGV[10] ~= '' then
  redis.call('HSET', KEYS[3], 'offset', offset, 'epoch', epoch)
  redis.call('PEXPIRE', KEYS[3], ARGV[10])
end
return { offset, epoch, redis.call(ARGV[1], ARGV[2], header .. '\n' .. payload) }
