-- Entries begin with the user's length, a colon and the user.
drop_lapsed(redis_seconds())
local entries = redis.call('HVALS', KEYS[1])
local users, user_count = {}, 0
for _, entry in ipairs(entries) do
  local length, rest = string.match(entry, '^(%d+):()')
  local user = string.sub(entry, rest, rest + tonumber(length) - 1)
  if not users[user] then
    users[user] = true
    user_count = user_count + 1
  end
end
return {#entries, user_count}
