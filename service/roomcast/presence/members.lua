-- The start of the scripts of presence. The keys of a channel's members:
-- KEYS[1] members, a hash: client -> lease, user, entry, with newlines between; KEYS[2] users, a hash: user -> number of its
--   clients that are members; KEYS[3] tally, a hash: lease -> number of its members; KEYS[4] the lease's members, a set

-- Return the number in a field of a hash, 0 for no field, nil for anything that no node has written.
local function count_in(field)
  if not field then
    return 0
  end
  return #field < 16 and string.match(field, '^[1-9]%d*$') and tonumber(field) or nil
end

-- Return whether Redis has all that nodes have written in members, users and tally, of which it may evict any.
local function is_whole(KEYS)
  local sum = 0
  for _, count in ipairs(redis.call('HVALS', KEYS[3])) do
    sum = sum + (count_in(count) or 0 / 0)
  end
  return sum == redis.call('HLEN', KEYS[1]) and (sum > 0) == (redis.call('HLEN', KEYS[2]) > 0)
end

-- Add a number to that in a field; a field without members, or with anything else than a number, is deleted.
local function add(key, field, number)
  local count = redis.pcall('HINCRBY', key, field, number)
  if type(count) ~= 'number' or count <= 0 then
    redis.call('HDEL', key, field)
  end
end
