-- Add a lease to those with a subscriber of a channel, keep the channel's keys alive, and publish if it is the first one.
-- KEYS[1] the leases with a subscriber, a set; KEYS[2] members, KEYS[3] users, KEYS[4] the lease's members: see join.lua
-- ARGV[1] lease; ARGV[2] TTL of the keys, ms; ARGV[3] the topic of events; ARGV[4] the event
ask('PEXPIRE', KEYS[1], 0)
ask('PUBLISH', ARGV[3], '')
local is_first = redis.call('EXISTS', KEYS[1]) == 0
redis.call('SADD', KEYS[1], ARGV[1])
for _, key in ipairs(KEYS) do
  redis.call('PEXPIRE', key, ARGV[2])
end
if is_first then
  redis.call('PUBLISH', ARGV[3], ARGV[4])
end
return 0
