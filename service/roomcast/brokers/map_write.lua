-- Set a key of a map, or remove it, and publish that: one step, so the order of the stream is that of publishing.
-- KEYS[1] to KEYS[5], ARGV[1] to ARGV[9]: see map_change.lua; KEYS[6] idempotency key, a hash: offset, epoch
-- ARGV[10] key; ARGV[11] 'removed', or ''; ARGV[12] j, t or b: the kind of the value; ARGV[13] value
-- ARGV[14] the result of pack_about without tags; ARGV[15] tags, JSON, '' for none
-- ARGV[16] 'before': sets are published with the tags of the value before
-- ARGV[17] TTL of the idempotency key, ms, '' without one; ARGV[18] version, '' without one; ARGV[19] version epoch
-- ARGV[20] '', if_new or if_exists; ARGV[21] offset of the key's last write, '' for any; ARGV[22] its epoch, '' for any
-- ARGV[23] the most keys; ARGV[24] the most bytes of all keys and entries
-- Returns { offset, epoch, reason }: '' if it was written, why it was not, max_keys, max_map_bytes, or foreign if a key of
--   Redis has what no node has written.
local key, is_removal, about, tags = ARGV[10], ARGV[11] ~= '', ARGV[14], ARGV[15]
if ARGV[17] ~= '' then
  local once = redis.call('HMGET', KEYS[6], 'offset', 'epoch')
  if once[1] then
    local offset, epoch = offset_in(once[1]), string.match(once[2] or '-', '^%w*$')
    return offset and epoch and { offset, epoch, 'idempotency' } or { 0, '', 'foreign' }
  end
end
local map = map_of(KEYS, ARGV)
if not map then
  return { 0, '', 'foreign' }
end
local position = map.position
local function answer(reason)
  return { position.offset, position.epoch, reason }
end
-- Read before anything is written, also because a key may be of another type.
local text, count, now, deadline
local function find()
  text = not map.is_void and redis.call('HGET', KEYS[3], key)
  count = map.is_void and 0 or redis.call('ZCARD', KEYS[4])
end
find()
if ARGV[9] ~= '0' then
  now = now_ms()
  deadline = not map.is_void and tonumber(redis.call('ZSCORE', KEYS[5], key) or nil)
end
if deadline and deadline <= now and (ARGV[18] ~= '' or ARGV[20] ~= '' or ARGV[21] ~= '') then
  expire_keys(map, { key }, now) -- where no node sweeps, a condition must not find it
  find()
end
local before = text and entry_of(text)
local reason
if ARGV[18] ~= '' and before and before.version ~= '' and before.version_epoch == ARGV[19]
  and tonumber(ARGV[18]) <= tonumber(before.version) then
  reason = 'version'
elseif ARGV[20] == 'if_new' and before then
  reason = 'key_exists'
elseif ARGV[20] == 'if_exists' and not before then
  reason = 'key_not_found'
elseif ARGV[21] ~= '' and tonumber(ARGV[21]) ~= (before and before.offset or 0) then
  reason = 'position_mismatch'
elseif ARGV[21] ~= '' and ARGV[22] ~= '' and ARGV[22] ~= position.epoch and not (before and ARGV[22] == before.epoch) then
  reason = 'position_mismatch'
elseif is_removal and not before then
  reason = 'key_not_found'
end
if reason then
  settle(map)
  return answer(reason)
end
local function entry_at(offset)
  local version, version_epoch = ARGV[18], ARGV[19]
  if version == '' then
    version, version_epoch = before and before.version or '', before and before.version_epoch or ''
  end
  return string.format('%s,%.0f,%s,%s,%d,%d,%d\n', ARGV[12], offset, position.epoch, version, #version_epoch, #tags, #about)
    .. version_epoch .. tags .. about .. ARGV[13]
end
local function limit_of(entry)
  local added = #entry - (before and before.size or -#key)
  if not before and count >= tonumber(ARGV[23]) then
    return 'max_keys'
  end
  return added > 0 and map.bytes + added > tonumber(ARGV[24]) and 'max_map_bytes' or nil
end
if is_removal then
  ask_for_changes(map)
  remove_key(map, key, before, about)
else
  local entry = entry_at(position.offset + 1)
  local limit = limit_of(entry)
  if limit and now then -- keys that no node has swept make room
    expire_keys(map, due_keys(map, now), now)
    find()
    before = text and entry_of(text)
    limit = limit_of(entry)
  end
  if limit then
    settle(map)
    return answer(limit)
  end
  ask_for_changes(map)
  if map.is_void then
    start_over(map)
  end
  local full = with_member(about, 'tags', tags)
  if ARGV[16] ~= '' and before then
    full = with_member(full, 'before', before.tags)
  end
  append(map, ARGV[12], full, ARGV[13])
  entry = entry_at(position.offset)
  redis.call('HSET', KEYS[3], key, entry)
  if not before then
    redis.call('ZADD', KEYS[4], 0, key)
  end
  if now then
    redis.call('ZADD', KEYS[5], string.format('%.0f', now + ARGV[9]), key)
  end
  map.bytes = map.bytes + #entry - (before and before.size or -#key)
  announce(map, ARGV[12], full, ARGV[13])
end
save(map)
keep_alive(map)
if ARGV[17] ~= '' then
  redis.call('HSET', KEYS[6], 'offset', position.offset, 'epoch', position.epoch)
  redis.call('PEXPIRE', KEYS[6], ARGV[17])
end
return answer('')
