-- Say that an instance lives, by the clock of Redis.
--
-- KEYS: instances (uid scored by the unix seconds until which it counts)
-- ARGV: uid, seconds (0 to leave)
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if tonumber(ARGV[2]) > 0 then
  redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
  redis.call('EXPIRE', KEYS[1], 60)
else
  redis.call('ZREM', KEYS[1], ARGV[1])
end
return 1
