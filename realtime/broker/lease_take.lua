-- Take a lease, or keep the one that is held, by the clock of Redis.
--
-- KEYS: lease (owner, fence, until and marked, both in unix milliseconds)
-- ARGV: 1 owner, 2 milliseconds, 3 "1" to mark now, "-1" to forget the mark, 4 seconds until
--       it is forgotten
-- Returns the fence (0: another holds it), milliseconds since the mark before (-1: none).
-- A fence is never given out twice: it counts on, and begins at the clock should the key be lost.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local known = redis.call('HMGET', KEYS[1], 'owner', 'fence', 'until', 'marked')
local fence = tonumber(known[2] or 0)
if known[1] ~= ARGV[1] then
  if tonumber(known[3] or 0) > now then
    return {0, -1}
  end
  fence = math.max(fence + 1, tonumber(time[1]))
end
local function whole(number) return string.format('%.0f', number) end
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'fence', whole(fence),
  'until', whole(now + tonumber(ARGV[2])))
if ARGV[3] == '1' then
  redis.call('HSET', KEYS[1], 'marked', whole(now))
elseif ARGV[3] == '-1' then
  redis.call('HDEL', KEYS[1], 'marked')
end
redis.call('EXPIRE', KEYS[1], ARGV[4])
return {fence, known[4] and now - tonumber(known[4]) or -1}
