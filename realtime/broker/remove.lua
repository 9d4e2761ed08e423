-- Drop a channel's publications; its offset and epoch stay.
--
-- KEYS: stream
return redis.call('DEL', KEYS[1])
