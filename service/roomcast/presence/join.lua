-- Put clients into a channel, and tell who joined: who is there already, by this lease or an older one, is not told again.
-- KEYS[1] members, a hash: client -> lease, user, entry, with newlines between; KEYS[2] users, a hash: user -> how many
--   of its clients are members; KEYS[3] the lease's members, a set of clients
-- ARGV[1] PUBLISH or SPUBLISH; ARGV[2] topic, '' if nobody is told; ARGV[3] lease; ARGV[4] how long the keys are kept, ms
-- ARGV[5...] of each client: its id; its user as JSON, so without a newline; its entry [client,user,info] as JSON, with a !
--   before it if nobody is told of this one
-- Returns how many joined and are told.
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
