-- Read a map's position and some of its entries; remove keys whose time is over first, and create the position if there
-- is none yet. Where nothing may be written, a known map is read as it is.
-- KEYS[1] to KEYS[5], ARGV[1] to ARGV[5]: see map_change.lua
-- ARGV[6] key after which to read, '' for the first; ARGV[7] the most entries; ARGV[8] the one key to read, '' for a page
-- ARGV[9] the most bytes of keys and entries, unless there is only one
-- Returns { offset, epoch, count, is_last, more_due, { key, entry, ... } }; count: of all keys, -1 if the meta has what no
--   node has written; more_due: 1 if more keys may be due; nothing was read: call again.
local map = map_of(KEYS, ARGV)
if not map then
  return { 0, '', -1, 1, 0, {} }
end
local more_due, now = 0, nil
if map.options.key_ttl ~= '0' then
  now = now_ms()
  local due = due_keys(map, now)
  if #due > 0 then
    ask('ZRANGEBYLEX', KEYS[4], '-', '+')
    if pcall(expire_keys, map, due, now) then
      more_due = #due == MAX_DUE and 1 or 0
    else
      map = map_of(KEYS, ARGV)
    end
  end
end
local entries, is_last, count = {}, 1, 0
if not map.is_void and more_due == 0 then
  count = redis.call('ZCARD', KEYS[4])
  if now and count > redis.call('ZCARD', KEYS[5]) then
    ask('ZRANGEBYLEX', KEYS[4], '-', '+')
    pcall(add_deadlines, map, now)
  end
  local names, limit, size = { ARGV[8] }, tonumber(ARGV[7]), 0
  if ARGV[8] == '' then
    local first = ARGV[6] == '' and '-' or '(' .. ARGV[6]
    names = limit > 0 and redis.call('ZRANGEBYLEX', KEYS[4], first, '+', 'LIMIT', 0, limit + 1) or {}
  end
  for i, name in ipairs(names) do
    local entry = redis.call('HGET', KEYS[3], name)
    size = size + #name + #(entry or '')
    if i > limit or i > 1 and size > tonumber(ARGV[9]) then
      is_last = 0
      break
    end
    if entry or ARGV[8] == '' then
      entries[#entries + 1], entries[#entries + 2] = name, entry or ''
    end
  end
end
-- Written after all that can be refused, see read.lua.
local position = map.position
if position.starts then
  settle(map)
else
  pcall(settle, map)
end
pcall(keep_alive, map)
return { position.offset, position.epoch, count, is_last, more_due, entries }
