-- Open a channel's metadata; the scripts after this one call it first.
--
-- meta: name, epoch, offset, run, prev_epoch, prev_top, version, version_epoch, ttl.
-- A server's run id changes with every start. What an append-only file lost with its tail would
-- be issued again under the same epoch, so the first script of a new run begins a new epoch and
-- keeps where the old one ended: up to there an old position is still good. Offsets go on, since
-- the entries that were kept carry them.
--
-- Who publishes knows how long the channel's metadata lives, and leaves it for those who read.
local function open_meta(meta, stream, name, new_epoch, meta_ttl, publishes)
  local known = redis.call(
    'HMGET', meta, 'epoch', 'offset', 'run', 'prev_epoch', 'prev_top', 'ttl')
  local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
  local opened = {
    epoch = known[1], offset = known[2], prev_epoch = known[4] or '', prev_top = known[5] or '0'
  }
  if not known[1] then
    -- Entries that outlived their metadata belong to a life that nobody can name any more.
    redis.call('DEL', stream)
    opened.epoch = new_epoch
    opened.offset = '0'
    redis.call('HSET', meta, 'name', name, 'epoch', new_epoch, 'offset', '0', 'run', run)
  elseif known[3] ~= run then
    opened.epoch = new_epoch
    opened.prev_epoch = known[1]
    opened.prev_top = known[2]
    redis.call('HSET', meta, 'epoch', new_epoch, 'run', run,
      'prev_epoch', opened.prev_epoch, 'prev_top', opened.prev_top)
  end
  if not publishes then
    meta_ttl = known[6] or meta_ttl
  elseif known[6] ~= meta_ttl then
    redis.call('HSET', meta, 'ttl', meta_ttl)
  end
  redis.call('EXPIRE', meta, meta_ttl)
  return opened
end
