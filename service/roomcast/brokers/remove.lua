-- Remove the history of a channel; its position stays, and the next publication has the next offset.
-- KEYS[1] stream
-- ARGV[1] PUBLISH or SPUBLISH; ARGV[2] topic; ARGV[3] the message to the nodes: one step, so none can publish in between
ask(ARGV[1], ARGV[2], '')
redis.call('DEL', KEYS[1])
return redis.call(ARGV[1], ARGV[2], ARGV[3])
