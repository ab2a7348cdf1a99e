-- Add a lease to those with a subscriber of a channel, keep the channel's keys alive, publish if it is the first one, and
-- check that Redis has all members of the lease. If something of the channel was lost, the rest is deleted too: then each
-- node learns here that its members are to be written again.
-- KEYS[1] to [4]: see members.lua; KEYS[5] the leases with a subscriber, a set
-- ARGV[1] lease; ARGV[2] TTL of the keys, ms; ARGV[3] the topic of events; ARGV[4] the event, '' to publish nothing
-- ARGV[5] the number of members that the lease must have
-- Returns 1 if Redis has them, else 0; then leases with a subscriber and leases with members, at most 16 of each.
ask('PEXPIRE', KEYS[1], 0)
if ARGV[4] ~= '' then
  ask('PUBLISH', ARGV[3], '')
end
local is_first = redis.call('SCARD', KEYS[5]) == 0
local reply = { 0, unpack(redis.call('SRANDMEMBER', KEYS[5], 16)) }
if redis.call('HLEN', KEYS[3]) > 0 then
  for _, lease in ipairs(redis.call('HRANDFIELD', KEYS[3], 16)) do
    reply[#reply + 1] = lease
  end
end
local member_count = redis.call('SCARD', KEYS[4])
if not is_whole(KEYS) then
  ask('SADD', KEYS[5], 'lease')
  redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3])
elseif tonumber(ARGV[5]) == member_count and count_in(redis.call('HGET', KEYS[3], ARGV[1])) == member_count then
  reply[1] = 1
end
redis.call('SADD', KEYS[5], ARGV[1])
for _, key in ipairs(KEYS) do
  redis.call('PEXPIRE', key, ARGV[2])
end
if is_first and ARGV[4] ~= '' then
  redis.call('PUBLISH', ARGV[3], ARGV[4])
end
return reply
