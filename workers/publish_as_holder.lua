-- Keep a publication as the channel's latest, and publish it if somebody watches; only as the holder of the lease.
-- The check and the publication are one step here, so that a worker that slept through the end of its lease
-- cannot publish any more, whatever it believes.
-- KEYS[1] lease key; KEYS[2] key of the channel's latest publication
-- ARGV[1] who I am; ARGV[2] the publication; ARGV[3] topic; ARGV[4] how long the latest is kept, ms
-- Returns -1 if the lease is not mine, else the number of connections that took it (0: nobody watches).
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return -1
end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[4])
if redis.call('PUBSUB', 'NUMSUB', ARGV[3])[2] == 0 then
  return 0
end
return redis.call('PUBLISH', ARGV[3], ARGV[2])
