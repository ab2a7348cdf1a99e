-- Add clients to a channel, and publish the joins of those that were not members yet, by this lease or an older one.
-- KEYS[1] members, a hash: client -> lease, user, entry, with newlines between; KEYS[2] users, a hash: user -> number
--   of its clients that are members; KEYS[3] the lease's members, a set of clients
-- ARGV[1] PUBLISH or SPUBLISH; ARGV[2] topic, '' to publish nothing; ARGV[3] lease; ARGV[4] TTL of the keys, ms
-- ARGV[5...] of each client: its id; its user as JSON, so without a newline; its entry [client,user,info] as JSON, with a !
--   before it if its join and leave are not published
-- Returns the number of published joins.
ask('HINCRBY', KEYS[2], 'user', 1)
ask('SADD', KEYS[3], 'client')
ask('PEXPIRE', KEYS[1], 0)
if ARGV[2] ~= '' then
  ask(ARGV[1], ARGV[2], '')
end
local joined = {}
for i = 5, #ARGV, 3 do
  local client, user, entry = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if redis.call('HSET', KEYS[1], client, ARGV[3] .. '\n' .. user .. '\n' .. entry) == 1 then
    redis.call('HINCRBY', KEYS[2], user, 1)
    if string.sub(entry, 1, 1) ~= '!' then
      joined[#joined + 1] = entry
    end
  end
  redis.call('SADD', KEYS[3], client)
end
for _, key in ipairs(KEYS) do
  redis.call('PEXPIRE', key, ARGV[4])
end
if #joined > 0 and ARGV[2] ~= '' then
  redis.call(ARGV[1], ARGV[2], '\1+\n[' .. table.concat(joined, ',') .. ']')
end
return #joined
