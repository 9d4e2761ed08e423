-- Read a channel's top and a part of its stream.
--
-- KEYS: meta, stream
-- ARGV: 1 channel, 2 new epoch, 3 meta ttl, 4 "XRANGE" | "XREVRANGE" | "" (the top alone),
--       5 first bound, 6 second bound, 7 limit (-1 for all), 8 witness epoch, 9 witness offset
-- Returns offset, epoch, previous epoch, previous top, entries.
local opened = open_meta(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])
-- An instance that was handed what the files no longer hold is the proof that it is lost: from
-- then on nobody may recover across the restart. So is an epoch that the files do not know at all.
local is_older = ARGV[8] ~= '' and ARGV[8] ~= opened.epoch
if is_older and (ARGV[8] ~= opened.prev_epoch
    or tonumber(ARGV[9]) > tonumber(opened.prev_top)) then
  redis.call('HDEL', KEYS[1], 'prev_epoch', 'prev_top')
  opened.prev_epoch = ''
  opened.prev_top = '0'
end
local entries = {}
if ARGV[4] ~= '' then
  if ARGV[7] == '-1' then
    entries = redis.call(ARGV[4], KEYS[2], ARGV[5], ARGV[6])
  else
    entries = redis.call(ARGV[4], KEYS[2], ARGV[5], ARGV[6], 'COUNT', ARGV[7])
  end
end
return {opened.offset, opened.epoch, opened.prev_epoch, opened.prev_top, entries}
