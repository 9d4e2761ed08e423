-- Tell every instance something that no stream keeps.
--
-- ARGV: 1 group address, 2 message type, 3 body
return redis.call('PUBLISH', ARGV[1],
  cmsgpack.pack({type = ARGV[2], offset = 0, epoch = '', body = ARGV[3]}))
