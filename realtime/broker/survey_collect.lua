-- Return the instances that live, and the answers so far.
--
-- KEYS: instances, answers
local now = tonumber(redis.call('TIME')[1])
return {
  redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf'),
  redis.call('LRANGE', KEYS[2], 0, -1)
}
