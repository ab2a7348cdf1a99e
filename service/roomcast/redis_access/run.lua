-- The end of every script: run it for one call, or for many whose arguments follow each other. Many of one key are one
-- command, so that no reload of the script can come between them and let a later one overtake an earlier one.
-- ARGV[last] the number of calls; all have the same number of keys and of arguments
-- Returns the reply of the one, or a list of replies.
local count = tonumber(table.remove(ARGV))
if count == 1 then
  return run(KEYS, ARGV)
end
local replies, of_keys, of_args = {}, #KEYS / count, #ARGV / count
for i = 0, count - 1 do
  local keys = { unpack(KEYS, i * of_keys + 1, (i + 1) * of_keys) }
  local args = { unpack(ARGV, i * of_args + 1, (i + 1) * of_args) }
  local is_done, reply = pcall(run, keys, args)
  if not is_done and type(reply) ~= 'table' then
    reply = { err = tostring(reply) } -- before Redis 7
  end
  replies[i + 1] = reply == nil and false or reply -- a list ends at nil
end
return replies
