-- Append a publication and tell every instance, or neither.
--
-- KEYS: meta, stream, idempotency (unused without a ttl)
-- ARGV: 1 channel, 2 new epoch, 3 meta ttl, 4 history size, 5 history ttl, 6 group address,
--       7 message type, 8 body, 9 idempotency ttl (0 for none), 10 version, 11 version epoch
-- Returns offset, epoch, "stored" | "sent" | "repeated" | "superseded".
-- One script, or two publishers could announce offset 2 before offset 1.
local idempotency_ttl = tonumber(ARGV[9])
if idempotency_ttl > 0 then
  local first = redis.call('HMGET', KEYS[3], 'offset', 'epoch')
  if first[1] then
    return {first[1], first[2], 'repeated'}
  end
end

-- Versions are unsigned 64-bit decimals, which Lua's numbers do not hold exactly.
local function at_least(a, b)
  if #a ~= #b then return #a > #b end
  return a >= b
end

local offset, epoch, outcome = '0', '', 'sent'
if tonumber(ARGV[4]) > 0 then
  local opened = open_meta(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3], true)
  epoch = opened.epoch
  if ARGV[10] ~= '0' then
    local last = redis.call('HMGET', KEYS[1], 'version', 'version_epoch')
    local is_same_life = ARGV[11] == '' or ARGV[11] == (last[2] or '')
    if last[1] and is_same_life and at_least(last[1], ARGV[10]) then
      return {opened.offset, epoch, 'superseded'}
    end
    redis.call('HSET', KEYS[1], 'version', ARGV[10], 'version_epoch', ARGV[11])
  end
  redis.call('HINCRBY', KEYS[1], 'offset', 1)
  offset = redis.call('HGET', KEYS[1], 'offset')
  redis.call('XADD', KEYS[2], 'MAXLEN', '=', ARGV[4], offset .. '-0', 'd', ARGV[8])
  redis.call('EXPIRE', KEYS[2], ARGV[5])
  outcome = 'stored'
end
redis.call('PUBLISH', ARGV[6],
  cmsgpack.pack({type = ARGV[7], offset = tonumber(offset), epoch = epoch, body = ARGV[8]}))
if idempotency_ttl > 0 then
  redis.call('HSET', KEYS[3], 'offset', offset, 'epoch', epoch)
  redis.call('EXPIRE', KEYS[3], idempotency_ttl)
end
return {offset, epoch, outcome}
