-- Set a key of a map, or remove it, and publish that: one step, so the order of the stream is that of publishing.
-- KEYS[1] to KEYS[5], ARGV[1] to ARGV[5]: see map_change.lua; KEYS[6] idempotency key, a hash: offset, epoch, reason
-- ARGV[6] key; ARGV[7] j, t or b: the kind of the value, x: remove the key; ARGV[8] value
-- ARGV[9] the result of pack_change; ARGV[10] tags, JSON, '' for none
-- ARGV[11] conditions, '' for none: 'once_ttl,is_final,version,mode,offset,epoch,version_epoch', each '' without it
--   once_ttl: of the idempotency key, ms; is_final: '1' if that is set too when nothing is written, with the reason
--   mode: if_new or if_exists; offset, epoch: of the key's last write
-- Returns { offset, epoch, reason }: '' if it was written, why it was not, max_keys, max_map_bytes, or foreign if a key of
--   Redis has what no node has written.
local REASONS = ',idempotency,version,key_exists,key_not_found,position_mismatch,max_keys,max_map_bytes,'
local key, kind, about, tags = ARGV[6], ARGV[7], ARGV[9], ARGV[10]
local once_ttl, is_final, version, mode, at, at_epoch, version_epoch = '', '', '', '', '', '', ''
if ARGV[11] ~= '' then
  once_ttl, is_final, version, mode, at, at_epoch, version_epoch =
    string.match(ARGV[11], '^(%d*),(%d*),(%d*),([^,]*),(%d*),([^,]*),(.*)$')
end
local function remember(position, reason)
  redis.call('HSET', KEYS[6], 'offset', position.offset, 'epoch', position.epoch, unpack(reason and { 'reason', reason } or {}))
  redis.call('PEXPIRE', KEYS[6], once_ttl)
end
if once_ttl ~= '' then
  local once = redis.call('HMGET', KEYS[6], 'offset', 'epoch', 'reason')
  if once[1] then
    local offset, epoch = offset_in(once[1]), string.match(once[2] or '-', '^%w*$')
    local reason = string.match(once[3] or 'idempotency', '^[%a_]+$')
    reason = reason and string.find(REASONS, ',' .. reason .. ',', 1, true) and reason
    return offset and epoch and reason and { offset, epoch, reason } or { 0, '', 'foreign' }
  end
end
local map = map_of(KEYS, ARGV)
if not map then
  return { 0, '', 'foreign' }
end
local position, limits = map.position, map.options
-- Read before anything is written, also because a key may be of another type.
local text, count, now, deadline, before
local function find()
  text = not map.is_void and redis.call('HGET', KEYS[3], key)
  count = map.is_void and 0 or redis.call('ZCARD', KEYS[4])
  before = text and entry_of(text)
end
find()
if limits.key_ttl ~= '0' then
  now = now_ms()
  deadline = not map.is_void and tonumber(redis.call('ZSCORE', KEYS[5], key) or nil)
end
if deadline and deadline <= now and (version ~= '' or mode ~= '' or at ~= '') then
  expire_keys(map, { key }, now) -- where no node sweeps, a condition must not find it
  find()
end
local reason
if version ~= '' and before and before.version ~= '' and before.version_epoch == version_epoch
  and tonumber(version) <= tonumber(before.version) then
  reason = 'version'
elseif mode == 'if_new' and before then
  reason = 'key_exists'
elseif mode == 'if_exists' and not before then
  reason = 'key_not_found'
elseif at ~= '' and tonumber(at) ~= (before and before.offset or 0) then
  reason = 'position_mismatch'
elseif at ~= '' and at_epoch ~= '' and at_epoch ~= position.epoch and not (before and at_epoch == before.epoch) then
  reason = 'position_mismatch'
elseif kind == 'x' and not before then
  reason = 'key_not_found'
end
if not reason and kind == 'x' then
  ask_for_changes(map)
  remove_key(map, key, before, about)
elseif not reason then
  if version == '' and before then
    version, version_epoch = before.version, before.version_epoch
  end
  -- The entry is a little different if a foreign stream makes another epoch start; those have the same length.
  local rest = string.format(',%s,%d,%d,%d\n', version, #version_epoch, #tags, #about) .. version_epoch .. tags .. about
    .. ARGV[8]
  local entry = string.format('%s,%.0f,', kind, position.offset + 1) .. position.epoch .. rest
  local function limit()
    local added = #entry - (before and before.size or -#key)
    if not before and count >= tonumber(limits.max_keys) then
      return 'max_keys'
    end
    return added > 0 and map.bytes + added > tonumber(limits.max_bytes) and 'max_map_bytes' or nil
  end
  reason = limit()
  local due = reason and now and due_keys(map, now) or {}
  while reason and #due > 0 do -- keys that no node has swept make room
    expire_keys(map, due, now)
    find()
    reason, due = limit(), due_keys(map, now)
  end
  if not reason then
    ask_for_changes(map)
    if map.is_void then
      start_over(map)
    end
    local full = with_member(about, 'tags', tags)
    if limits.before == '1' and before then
      full = with_member(full, 'before', before.tags)
    end
    append(map, kind, full, ARGV[8])
    entry = string.format('%s,%.0f,', kind, position.offset) .. position.epoch .. rest
    redis.call('HSET', KEYS[3], key, entry)
    if not before then
      redis.call('ZADD', KEYS[4], 0, key)
    end
    if now then
      redis.call('ZADD', KEYS[5], string.format('%.0f', now + limits.key_ttl), key)
    end
    map.bytes = map.bytes + #entry - (before and before.size or -#key)
    announce(map, kind, full, ARGV[8])
  end
end
if reason then
  if position.has_changed then
    ask_for_changes(map)
    settle(map)
    keep_alive(map)
  end
  if is_final == '1' and once_ttl ~= '' then
    ask('PEXPIRE', KEYS[6], 0)
    remember(position, reason)
  end
  return { position.offset, position.epoch, reason }
end
save(map)
keep_alive(map)
if once_ttl ~= '' then
  remember(position)
end
return { position.offset, position.epoch, '' }
