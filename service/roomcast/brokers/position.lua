-- A channel's position: the start of the scripts that publish and read. The meta is a hash:
--   epoch, offset; base: the offset at which the epoch started
--   former: the epochs before it ("5f0c2a91,-a1b2c3d4,"), with a dash those of other data, which a node has seen
--   home: the replication id of the server that continued it last
--   jumps: "90-5000000090," if after a start of the server offset 90 was followed by 5000000091

local MAX_FORMER, MAX_JUMPS = 16, 8
-- Of a persistent map without keys, ms: clients may read any name, and each would stay for ever.
local EMPTY_TTL = 24 * 3600 * 1000
local replication -- asked once for all calls

-- Return a list with one more item, without the oldest above a number of items.
local function with(list, item, max_items)
  list = list .. item .. ','
  return select(2, string.gsub(list, ',', '')) > max_items and string.match(list, ',(.*)') or list
end

-- Return whether no publication that this server has can have had an offset: it lies in a jump.
local function is_in_jump(jumps, offset)
  for from, to in string.gmatch(jumps, '(%d+)-(%d+)') do
    if tonumber(from) < offset and offset < tonumber(to) then
      return true
    end
  end
  return false
end

-- Return whether the server has been a replica since it started. A master that restarts from its own dump has a former
-- replication id too. Before Redis 7 the count is missing.
local function has_replicated()
  local stats = tostring(redis.pcall('INFO', 'stats'))
  return string.match(stats, 'total_net_repl_input_bytes:(%d+)') ~= '0'
end

-- Start another epoch at an offset.
local function start_epoch(position, epoch, base)
  if position.epoch then
    position.former = with(position.former, position.epoch, MAX_FORMER)
  end
  position.epoch, position.base, position.jumps, position.starts, position.has_changed = epoch, base, '', true, true
end

-- Return the position of a channel on this server, nil if the meta has what no node has written. The caller writes it.
--   is_new: there was none; starts: another epoch starts.
local function position_of(meta, spare_epoch, seen)
  local found = redis.call('HMGET', meta, 'epoch', 'offset', 'base', 'home', 'jumps', 'former')
  local epoch, home, jumps, former = found[1], found[4] or '', found[5] or '', found[6] or ''
  local offset, base = offset_in(found[2]), offset_in(found[3])
  if not (offset and base) or epoch and string.find(epoch, '^%w+$') == nil or string.find(jumps .. former, '[^%w,-]') then
    return nil
  end
  -- INFO costs 4 us; for a user that may not call it nothing is known of the server.
  replication = replication or tostring(redis.pcall('INFO', 'replication'))
  local id = string.match(replication, 'master_replid:(%x+)') or home
  local position = {
    epoch = epoch, offset = offset, base = base, home = id, jumps = jumps, former = former,
    is_new = not epoch, starts = false, has_changed = id ~= home,
  }
  local is_lost = not epoch
  if epoch and id ~= home then
    -- A promoted replica may lack publications that the former master had acknowledged and sent, and no process may be
    -- left that has seen them: so the epoch ends. After a start of the server it ends only once a loss is known. Until
    -- then the numbers continue at a distance, so that none of a lost publication is given again. The distance is 2^40
    -- or less, and known from the id, so that reading needs no write.
    local distance = 10 ^ 9 + tonumber(string.sub(id, 1, 10), 16)
    if string.find(replication, 'master_replid2:0*[1-9a-f]') and has_replicated() or offset + distance > 2 ^ 52 then
      is_lost = true
    elseif home ~= '' then
      position.jumps = with(jumps, string.format('%.0f-%.0f', offset, offset + distance), MAX_JUMPS)
      position.offset = offset + distance
    end
  end
  for seen_offset, seen_epoch in string.gmatch(seen, '(%d+):(%w+)') do
    if seen_epoch == epoch then
      seen_offset = tonumber(seen_offset)
      is_lost = is_lost or seen_offset > position.offset or is_in_jump(position.jumps, seen_offset)
    elseif not string.find(',' .. position.former, '[,-]' .. seen_epoch .. ',') then
      is_lost = true
      position.former = with(position.former, '-' .. seen_epoch, MAX_FORMER)
    end
  end
  if is_lost then
    start_epoch(position, spare_epoch, position.offset)
  end
  return position
end
