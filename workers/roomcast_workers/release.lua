-- Give the lease back, if it is mine.
-- KEYS[1] lease key
-- ARGV[1] who I am
-- Returns 1 if it was mine.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('DEL', KEYS[1])
