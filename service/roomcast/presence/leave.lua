-- Remove clients from a channel and publish their leaves, in one step, so that each leaves once.
-- The clients are the named ones; without names, members of a lease, and after the last of them the lease does not count
-- as a subscriber any more.
-- KEYS[1] members, KEYS[2] users, KEYS[3] the lease's members: see join.lua; KEYS[4] the leases with a subscriber, a set
-- ARGV[1] PUBLISH or SPUBLISH; ARGV[2] topic, '' to publish nothing; ARGV[3] lease; ARGV[4] limit, without names
-- ARGV[5] the topic of events; ARGV[6] the event when no lease remains
-- ARGV[7...] the named clients
-- Returns the number of members that the lease still has.
local is_sweep = #ARGV == 6
ask('HGET', KEYS[1], 'client')
ask('HDEL', KEYS[1], 'client')
ask('SREM', KEYS[3], 'client')
ask('HINCRBY', KEYS[2], 'user', -1)
ask('SCARD', KEYS[3])
if ARGV[2] ~= '' then
  ask(ARGV[1], ARGV[2], '')
end
if is_sweep then
  ask('EXISTS', KEYS[4])
  ask('PUBLISH', ARGV[5], '')
end
local clients = is_sweep and redis.call('SPOP', KEYS[3], ARGV[4]) or { unpack(ARGV, 7) }
local left = {}
for _, client in ipairs(clients) do
  local member = redis.call('HGET', KEYS[1], client) or ''
  local lease, user, entry = string.match(member, '^([^\n]*)\n([^\n]*)\n(.*)$')
  -- A client that its node has moved to a newer lease meanwhile stays.
  if lease and (lease == ARGV[3] or not is_sweep) then
    redis.call('HDEL', KEYS[1], client)
    redis.call('SREM', KEYS[3], client)
    if redis.call('HINCRBY', KEYS[2], user, -1) <= 0 then
      redis.call('HDEL', KEYS[2], user)
    end
    if string.sub(entry, 1, 1) ~= '!' then
      left[#left + 1] = entry
    end
  end
end
if #left > 0 and ARGV[2] ~= '' then
  redis.call(ARGV[1], ARGV[2], '\1-\n[' .. table.concat(left, ',') .. ']')
end
local rest = redis.call('SCARD', KEYS[3])
if is_sweep and rest == 0 and redis.call('SREM', KEYS[4], ARGV[3]) == 1 and redis.call('EXISTS', KEYS[4]) == 0 then
  redis.call('PUBLISH', ARGV[5], ARGV[6])
end
return rest
