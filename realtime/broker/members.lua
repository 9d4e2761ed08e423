-- Drop the entries that were not renewed; the scripts after this one call it first.
--
-- KEYS: members (client -> entry), expiry (client scored by unix seconds)
local function drop_lapsed(now)
  local lapsed = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now)
  for first = 1, #lapsed, 1000 do
    redis.call('HDEL', KEYS[1], unpack(lapsed, first, math.min(first + 999, #lapsed)))
  end
  if #lapsed > 0 then
    redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
  end
end

local function redis_seconds()
  return tonumber(redis.call('TIME')[1])
end
