-- Tell whether any instance listens to a group.
--
-- ARGV: group address
return redis.call('PUBSUB', 'NUMSUB', ARGV[1])[2]
