-- Return the instances that live, and the answers behind those that are known.
--
-- KEYS: instances, answers   ARGV: how many answers are known
local now = tonumber(redis.call('TIME')[1])
return {
  redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf'),
  redis.call('LRANGE', KEYS[2], ARGV[1], -1)
}
