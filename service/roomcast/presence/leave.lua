-- Remove clients from a channel and publish their leaves, in one step, so that each leaves once.
-- The clients are the named ones; without names, members of a lease, and after the last of them the lease does not count
-- as a subscriber any more.
-- KEYS[1] to [4]: see members.lua; KEYS[5] the leases with a subscriber, a set
-- ARGV[1] PUBLISH or SPUBLISH; ARGV[2] topic, '' to publish nothing; ARGV[3] lease; ARGV[4] limit, without names
-- ARGV[5] the topic of events; ARGV[6] the event when no lease remains
-- ARGV[7...] the named clients
-- Returns the number of members that the lease still has.
local is_sweep = #ARGV == 6
ask('HDEL', KEYS[1], 'client')
ask('HINCRBY', KEYS[2], 'user', -1)
ask('SREM', KEYS[4], 'client')
if ARGV[2] ~= '' then
  ask(ARGV[1], ARGV[2], '')
end
if is_sweep then
  ask('HGET', KEYS[1], 'client')
  ask('SPOP', KEYS[4], 1)
  ask('EXISTS', KEYS[5])
  ask('PUBLISH', ARGV[5], '')
end
-- Keys of another type are refused before anything is written.
local member_count, tally_count = redis.call('HLEN', KEYS[1]), redis.call('HLEN', KEYS[3])
redis.call('HLEN', KEYS[2])
redis.call('SCARD', KEYS[5])
if member_count <= (is_sweep and tonumber(ARGV[4]) or #ARGV - 6) then
  ask('UNLINK', KEYS[2])
end
if redis.call('SCARD', KEYS[4]) == 0 and is_sweep and member_count > 0
  and (tally_count == 0 or redis.call('HGET', KEYS[3], ARGV[3])) then
  -- The lease's set was lost. 100,000 members take 0.1 s, once.
  local all = redis.call('HGETALL', KEYS[1])
  for i = 1, #all, 2 do
    if string.match(all[i + 1], '^([^\n]*)\n') == ARGV[3] then
      redis.call('SADD', KEYS[4], all[i])
    end
  end
end
local clients = is_sweep and redis.call('SPOP', KEYS[4], ARGV[4]) or { unpack(ARGV, 7) }
local left, removed = {}, {}
for _, client in ipairs(clients) do
  local member = redis.call('HGET', KEYS[1], client)
  local lease, user, entry = string.match(member or '', '^([^\n]*)\n([^\n]*)\n(.*)$')
  -- A client that its node has moved to a newer lease meanwhile stays.
  if member and (not lease or lease == ARGV[3] or not is_sweep) then
    member_count = member_count - redis.call('HDEL', KEYS[1], client)
    if lease then
      add(KEYS[2], user, -1)
      removed[lease] = (removed[lease] or 0) + 1
      if string.sub(entry, 1, 1) ~= '!' then
        left[#left + 1] = entry
      end
    end
  end
  if not is_sweep then
    redis.call('SREM', KEYS[4], client)
  end
end
for lease, count in pairs(removed) do
  add(KEYS[3], lease, -count)
end
if member_count == 0 then
  redis.call('UNLINK', KEYS[2], KEYS[3]) -- they are left if the members were lost
end
if #left > 0 and ARGV[2] ~= '' then
  redis.call(ARGV[1], ARGV[2], '\1-\n[' .. table.concat(left, ',') .. ']')
end
local rest = redis.call('SCARD', KEYS[4])
if is_sweep and rest == 0 and redis.call('SREM', KEYS[5], ARGV[3]) == 1 and redis.call('EXISTS', KEYS[5]) == 0 then
  redis.call('PUBLISH', ARGV[5], ARGV[6])
end
return rest
