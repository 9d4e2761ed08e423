drop_lapsed(redis_seconds())
return redis.call('HGETALL', KEYS[1])
