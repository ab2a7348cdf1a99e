-- A map's changes: goes behind position.lua, before the scripts that use maps. All of them have these:
-- KEYS[1] meta, see position.lua, with bytes: of all keys and entries; KEYS[2] stream, see publish.lua
-- KEYS[3] state, a hash: key -> entry; KEYS[4] keys, a sorted set without scores, for pages in the order of their bytes
-- KEYS[5] deadlines, a sorted set: key -> Unix time, ms
-- ARGV[1] PUBLISH or SPUBLISH; ARGV[2] topic; ARGV[3] an epoch, in case a new one is needed
-- ARGV[4] positions that the caller has seen: '12:5f0c2a91 ...', '' for none; ARGV[5] options, see options_of
-- Few arguments, because each costs a node 0.5 us.
-- An entry starts with 'j,12,5f0c2a91,3,0,13,25\n': kind, offset, epoch, version or nothing, and three lengths: of the
-- version epoch, of the tags (JSON) and of the other members of the change (JSON, see pack_about). Then these three come,
-- and the value.

local MAX_DUE = 100
local has_asked = false
local options_text, options

-- Return the options of a namespace, all of them but `before` numbers, '0' for none:
--   kept: changes in the stream; stream_ttl, meta_ttl, ms; state_ttl: of state, keys and deadlines; key_ttl: of each key
--   max_keys; max_bytes: of all keys and entries; before: '1' if sets are published with the tags of the value before
local function options_of(text)
  if text ~= options_text then
    options_text, options = text, {}
    options.kept, options.stream_ttl, options.meta_ttl, options.state_ttl, options.key_ttl, options.max_keys,
      options.max_bytes, options.before = string.match(text, '^(%d+),(%d+),(%d+),(%d+),(%d+),(%d+),(%d+),(%d)$')
  end
  return options
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Ask for all that may follow the first write of a change.
local function ask_for_changes(map)
  if has_asked then
    return
  end
  local keys, args = map.keys, map.args
  ask(args[1], args[2], '')
  ask('HSET', keys[1], 'offset', 0)
  ask('HDEL', keys[3], '')
  ask('ZADD', keys[4], 0, '')
  ask('ZREM', keys[4], '')
  ask('ZCARD', keys[4])
  ask('DEL', keys[2])
  ask('PEXPIRE', keys[1], 0)
  ask('PERSIST', keys[1])
  ask('PTTL', keys[1])
  ask('XADD', keys[2], '*', 'k', '')
  has_asked = true
end

-- Return the map of a script's keys, nil if the meta has what no node has written.
--   is_void: the meta is of no map, so whatever is in the other keys is of another one.
local function map_of(keys, args)
  local position = position_of(keys[1], args[3], args[4])
  local bytes = redis.call('HGET', keys[1], 'bytes')
  local size = offset_in(bytes)
  return position and size and {
    keys = keys, args = args, options = options_of(args[5]), position = position, bytes = size,
    is_void = not bytes or position.is_new,
  } or nil
end

-- Return what an entry says.
local function entry_of(text)
  local kind, offset, epoch, version, of_epoch, of_tags, start =
    string.match(text, '^([jtb]),(%d+),(%w+),(%d*),(%d+),(%d+),%d+\n()')
  if not kind then -- no node has written it
    return { size = #text, offset = 0, epoch = '', version = '', version_epoch = '', tags = '' }
  end
  local tags = start + of_epoch
  return {
    size = #text, offset = tonumber(offset), epoch = epoch, version = version,
    version_epoch = string.sub(text, start, tags - 1), tags = string.sub(text, tags, tags + of_tags - 1),
  }
end

-- Return a JSON object with one more member; nothing is added for ''.
local function with_member(object, name, value)
  return value == '' and object or string.sub(object, 1, -2) .. ',"' .. name .. '":' .. value .. '}'
end

local function save(map)
  local position, meta = map.position, map.keys[1]
  if position.has_changed then
    redis.call('HSET', meta, 'offset', position.offset, 'epoch', position.epoch, 'base', position.base,
      'home', position.home, 'jumps', position.jumps, 'former', position.former, 'bytes', map.bytes)
    position.has_changed = false
  else
    redis.call('HSET', meta, 'offset', position.offset, 'bytes', map.bytes)
  end
end

local function keep_alive(map)
  local keys, ttl = map.keys, map.options.state_ttl
  if ttl ~= '0' then
    redis.call('PEXPIRE', keys[1], map.options.meta_ttl)
    redis.call('PEXPIRE', keys[3], ttl)
    redis.call('PEXPIRE', keys[4], ttl)
    redis.call('PEXPIRE', keys[5], ttl)
  elseif redis.call('ZCARD', keys[4]) == 0 then
    redis.call('PEXPIRE', keys[1], EMPTY_TTL)
  elseif redis.call('PTTL', keys[1]) >= 0 then -- it was empty, or the namespace had another mode
    redis.call('PERSIST', keys[1])
    redis.call('PERSIST', keys[3])
    redis.call('PERSIST', keys[4])
    redis.call('DEL', keys[5])
  end
end

-- Begin an empty map.
local function start_over(map)
  ask_for_changes(map)
  map.bytes = 0
  save(map) -- first: full memory does not refuse DEL, nor any write after it
  redis.call('DEL', map.keys[2], map.keys[3], map.keys[4], map.keys[5])
  map.is_void = false
end

-- Write the position if it has changed.
local function settle(map)
  if map.position.has_changed then
    local write = map.is_void and start_over or save
    write(map)
  end
end

-- Give a change the next offset, and add it to the stream. If Redis refuses that, an error is raised.
local function append(map, kind, about, data)
  local position, stream, kept = map.position, map.keys[2], map.options.kept
  local offset = position.offset + 1
  if kept ~= '0' then
    local id = string.format('%.0f-0', offset)
    local added = redis.pcall('XADD', stream, 'MAXLEN', kept, id, 'k', kind, 'd', data, 'm', about)
    if type(added) == 'table' and added.err then
      local reason = tostring(added.err)
      if string.find(reason, 'WRONGTYPE') or string.find(reason, 'equal or smaller') or string.find(reason, 'exhausted') then
        -- Another program has written into the stream: it is deleted, and a new epoch starts.
        start_epoch(position, map.args[3], offset - 1)
        redis.call('DEL', stream)
      end
      redis.call('XADD', stream, 'MAXLEN', kept, id, 'k', kind, 'd', data, 'm', about)
    end
    redis.call('PEXPIRE', stream, map.options.stream_ttl)
  end
  position.offset = offset
end

-- Publish the change that has the newest offset.
local function announce(map, kind, about, data)
  local position, args = map.position, map.args
  local header = '\1' .. kind .. string.format('%.0f', position.offset) .. ',' .. position.epoch .. ',' .. #about
  redis.call(args[1], args[2], header .. '\n' .. about .. data)
end

-- Remove a key, whose entry is `before`; the caller saves the map.
local function remove_key(map, key, before, about)
  about = with_member(about, 'tags', before.tags)
  append(map, 't', about, '')
  redis.call('HDEL', map.keys[3], key)
  redis.call('ZREM', map.keys[4], key)
  redis.call('ZREM', map.keys[5], key)
  map.bytes = math.max(0, map.bytes - #key - before.size)
  announce(map, 't', about, '')
end

-- Return keys whose time is over.
local function due_keys(map, now)
  return map.is_void and {} or redis.call('ZRANGEBYSCORE', map.keys[5], '-inf', string.format('%.0f', now), 'LIMIT', 0, MAX_DUE)
end

-- Remove keys whose time is over.
local function expire_keys(map, due, now)
  if #due == 0 then
    return
  end
  redis.call('ZCARD', map.keys[4]) -- a key of another type is found before anything is written
  local found = redis.call('HMGET', map.keys[3], unpack(due))
  ask_for_changes(map)
  for i, key in ipairs(due) do
    if found[i] then
      local quoted = string.gsub(key, '[\\"]', '\\%0')
      remove_key(map, key, entry_of(found[i]), string.format('{"key":"%s","time":%.0f,"removed":true}', quoted, now))
    else -- another program has removed it
      redis.call('ZREM', map.keys[4], key)
      redis.call('ZREM', map.keys[5], key)
    end
  end
  save(map)
end

-- Let keys expire that were written while the namespace's keys did not.
local function add_deadlines(map, now)
  ask('HSET', map.keys[1], 'offset', 0)
  local deadline = string.format('%.0f', now + map.options.key_ttl)
  for _, key in ipairs(redis.call('ZRANGE', map.keys[4], 0, -1)) do
    redis.call('ZADD', map.keys[5], 'NX', deadline, key)
  end
end
