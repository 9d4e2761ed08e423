-- Have a stream live on as if it had just been published to, and read its newest entry.
--
-- KEYS: meta, stream
-- ARGV: history ttl
-- Returns the body, or nil where there is none.
local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
if not newest then
  return nil
end
redis.call('EXPIRE', KEYS[2], ARGV[1])
local meta_ttl = redis.call('HGET', KEYS[1], 'ttl')
if meta_ttl then
  redis.call('EXPIRE', KEYS[1], meta_ttl)
end
return newest[2][2]
