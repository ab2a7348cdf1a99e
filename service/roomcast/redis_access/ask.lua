-- The start of every script. What a script has written stays when one of its later commands is refused: so commands that
-- follow a write are asked for before it. Full memory refuses only the first write, and only one that may need memory.
-- Redis before 7 cannot be asked about permissions.
local function ask(...)
  if redis.acl_check_cmd and not redis.acl_check_cmd(...) then
    error({ err = 'NOPERM this user may not run ' .. select(1, ...) })
  end
end
