-- The start of every script. What a script has written stays when one of its later commands is refused: so commands that
-- follow a write are asked for before it. Full memory refuses only the first write, and only one that may need memory.
-- Redis before 7 cannot be asked about permissions.
local function ask(...)
  if redis.acl_check_cmd and not redis.acl_check_cmd(...) then
    error({ err = 'NOPERM this user may not run ' .. select(1, ...) })
  end
end

-- Return the offset in a field of a hash, 0 for no field, nil for anything that no node has written.
local function offset_in(field)
  local offset = tonumber(field or 0)
  return offset and offset >= 0 and offset < 2 ^ 53 - 1 and offset % 1 == 0 and offset or nil
end
