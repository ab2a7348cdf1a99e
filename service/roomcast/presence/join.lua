-- Add clients to a channel, and publish the joins of those that were not members yet, by this lease or an older one.
-- If something of the channel was lost, the rest is deleted too: the nodes notice and write all of it again (occupy.lua).
-- KEYS: see members.lua
-- ARGV[1] PUBLISH or SPUBLISH; ARGV[2] topic, '' to publish nothing; ARGV[3] lease; ARGV[4] TTL of the keys, ms
-- ARGV[5...] of each client: its id; its user as JSON, so without a newline; its entry [client,user,info] as JSON, with a !
--   before it if its join and leave are not published
-- Returns the number of published joins.
local clients, users, members = {}, {}, {}
for i = 5, #ARGV, 3 do
  clients[#clients + 1] = ARGV[i]
  users[#users + 1] = ARGV[i + 1]
  members[#members + 1] = ARGV[i]
  members[#members + 1] = ARGV[3] .. '\n' .. ARGV[i + 1] .. '\n' .. ARGV[i + 2]
end
redis.call('SCARD', KEYS[4]) -- a key of another type is refused before anything is written
local before = redis.call('HMGET', KEYS[1], unpack(clients))
local is_valid = is_whole(KEYS)
for _, count in ipairs(redis.call('HMGET', KEYS[2], unpack(users))) do
  is_valid = is_valid and count_in(count) ~= nil
end
ask('SADD', KEYS[4], 'client')
ask('HINCRBY', KEYS[2], 'user', 1)
ask('HDEL', KEYS[3], 'lease')
ask('PEXPIRE', KEYS[1], 0)
if ARGV[2] ~= '' then
  ask(ARGV[1], ARGV[2], '')
end
if not is_valid then
  ask('HSET', KEYS[1], 'client', '')
  redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3])
end
redis.call('HSET', KEYS[1], unpack(members))
redis.call('SADD', KEYS[4], unpack(clients))
local joined, counts = {}, {}
for i, member in ipairs(before) do
  local lease = is_valid and member and string.match(member, '^([^\n]*)\n')
  if not lease then
    redis.call('HINCRBY', KEYS[2], users[i], 1)
  end
  if lease ~= ARGV[3] then
    counts[ARGV[3]] = (counts[ARGV[3]] or 0) + 1
    if lease then
      counts[lease] = (counts[lease] or 0) - 1
    end
  end
  local entry = ARGV[3 * i + 4]
  if not member and string.sub(entry, 1, 1) ~= '!' then
    joined[#joined + 1] = entry
  end
end
for lease, count in pairs(counts) do
  add(KEYS[3], lease, count)
end
for _, key in ipairs(KEYS) do
  redis.call('PEXPIRE', key, ARGV[4])
end
if #joined > 0 and ARGV[2] ~= '' then
  redis.call(ARGV[1], ARGV[2], '\1+\n[' .. table.concat(joined, ',') .. ']')
end
return #joined
