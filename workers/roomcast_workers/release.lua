-- Release the lease, if the owner holds it.
-- KEYS[1] lease key
-- ARGV[1] owner
-- Returns 1 if it was released.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('DEL', KEYS[1])
