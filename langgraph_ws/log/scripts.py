"""What Redis does for a thread, as Lua: each script is one step that nothing can come between.

Every script but `TAKE_BACK` and `DUE` gets the same keys, which lie in one hash slot, and the same
first arguments. Numbers are milliseconds, bytes and entry numbers; frames are JSON that no script
looks into.

========  ======  ============================================================================
`META`    hash    `e` epoch, `s` head, `fs` first entry that readers see, `b` bytes of those,
                  `hb` bytes of entries before `fs` that the fold does not cover yet, `fd` the
                  entry that the fold stands for, `runs` what is known of each run, `due` when
                  the next of them is out of time, `cur` the run that wrote last, `k:<run>` the
                  last write of each run (token, seq, time)
`LOG`     stream  the entries, `<seq>-<stamp of the epoch>`: run, time, frame
`RESULTS` hash    the terminal entries by number, which outlive the others
`FOLD`    string  the fold (see `fold`)
`OWN`     hash    `f` the fence, `o` the process that holds the lease, `lx` when it ends, `rel`
                  set when it was let go of, `int` set while the thread waits for an answer,
                  `act` the active run, and of each live run `<r>`: `w:<r>` what it takes to
                  carry it out, `i:<r>` thread id and graph as JSON, `g:<r>` its graph, `a:<r>`
                  its attempt, `c:<r>` its crashes, `s:<r>` the run that it supersedes, `x:<r>`
                  set when it is to stop, `k:<r>` the call that admitted it, `u:<r>` since when
                  it is known that somebody cannot carry it out
`QUEUE`   list    the runs that wait
`VIEWERS` zset    the processes whose clients follow the thread, by until when that is known
`LEASES`  zset    the threads of the slot that are held, by when their lease ends
========  ======  ============================================================================

An entry leaves the sight of readers exactly when it is over the limits, and leaves the stream once
a fold covers it.

The stamp of an epoch is the second in which it began and 20 bits of chance, so that the id of an
entry names none of a log that was lost.
"""

from __future__ import annotations

__all__ = [
    "ADMIT",
    "APPEND",
    "CHECK",
    "CLAIM",
    "DROP",
    "DUE",
    "FINISH",
    "FOLLOW",
    "LEAVE",
    "LIVE",
    "LOOK",
    "RELEASE",
    "RENEW",
    "RESTORE",
    "STOP",
    "STORE_FOLD",
    "TAKE_BACK",
    "VIEW",
    "WATCH",
    "WATCHED",
    "WITHDRAW",
]

_PRELUDE = """
local META, LOG, RESULTS, FOLD = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local OWN, QUEUE, VIEWERS, LEASES = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local now = tonumber(ARGV[1])
if not now then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end
local FINISHED, RESULT = tonumber(ARGV[2]), tonumber(ARGV[3])
local MAX_ENTRIES, MAX_BYTES = tonumber(ARGV[4]), tonumber(ARGV[5])
local KEEP = RESULT + 60000
local ENTRY_BYTES = 64
local m = {}

local function text(number) return string.format('%.0f', number) end

local function stamp(epoch)
  local began, chance = epoch:match('^(%d+)-(%x%x%x%x%x)')
  return text(tonumber(began) * 1048576 + tonumber(chance, 16))
end

local function id(seq) return text(seq) .. '-' .. m.stamp end

local function load()
  local v = redis.call('HMGET', META, 'e', 's', 'fs', 'b', 'hb', 'fd', 'due')
  if not v[1] then return false end
  m.e, m.s, m.fs, m.b = v[1], tonumber(v[2]), tonumber(v[3]), tonumber(v[4])
  m.hb, m.fd, m.due = tonumber(v[5]), tonumber(v[6]), tonumber(v[7] or '')
  m.stamp = stamp(m.e)
  return true
end

local function save()
  redis.call('HSET', META, 's', text(m.s), 'fs', text(m.fs), 'b', text(m.b), 'hb', text(m.hb))
end

local function create(epoch)
  m = {e = epoch, s = 0, fs = 1, b = 0, hb = 0, fd = 0, stamp = stamp(epoch)}
  redis.call('DEL', LOG, RESULTS, FOLD)
  redis.call('HSET', META, 'e', epoch, 's', '0', 'fs', '1', 'b', '0', 'hb', '0', 'fd', '0')
end

local function runs() return cjson.decode(redis.call('HGET', META, 'runs') or '[]') end

local function save_runs(list)
  local due
  for _, run in ipairs(list) do
    if run.e > 0 then
      local at = run.at + (run.d == 1 and RESULT or FINISHED)
      if not due or at < due then due = at end
    end
  end
  redis.call('HSET', META, 'runs', cjson.encode(list))
  if due then redis.call('HSET', META, 'due', text(due)) else redis.call('HDEL', META, 'due') end
  m.due = due
end

local function find(list, name)
  for _, run in ipairs(list) do if run.i == name then return run end end
end

local function entry_at(seq) return redis.call('XRANGE', LOG, id(seq), id(seq))[1] end

local function size_of(seq)
  local found = entry_at(seq)
  return found and ENTRY_BYTES + #found[2][6] or 0
end

local function time_of(seq)
  local found = entry_at(seq)
  return found and found[2][4] or '0'
end

local function hide(upto)
  if upto <= m.fs then return end
  if upto == m.s + 1 then
    m.hb, m.b, m.fs = m.hb + m.b, 0, upto
    return
  end
  while m.fs < upto do
    local size = size_of(m.fs)
    m.b = m.b - size
    if m.fs > m.fd then m.hb = m.hb + size end
    m.fs = m.fs + 1
  end
  redis.call('XTRIM', LOG, 'MINID', id(math.min(m.fs, m.fd + 1)))
end

local function hide_dropped(list)
  local first = m.s + 1
  for _, run in ipairs(list) do if run.d == 0 and run.a < first then first = run.a end end
  if first > m.fs then hide(first); save() end
end

local function forget(run)
  for _, seq in ipairs(run.t) do redis.call('HDEL', RESULTS, text(seq)) end
  redis.call('HDEL', META, 'k:' .. run.i, 'cur')
end

local function expire()
  if not m.due or m.due > now then return end
  local kept = {}
  for _, run in ipairs(runs()) do
    if run.e > 0 and run.at + RESULT <= now then
      forget(run)
    else
      if run.e > 0 and run.at + FINISHED <= now then run.d = 1 end
      kept[#kept + 1] = run
    end
  end
  save_runs(kept)
  hide_dropped(kept)
end

local function keep()
  for n = 1, 6 do redis.call('PEXPIRE', KEYS[n], KEEP) end
end
"""

_APPEND = """
-- ARGV of a write: epoch if a new one begins, epoch and seq that the writer knows of, fence or
-- nothing, run, token, the kind of each frame (d, t: terminal, e: the end), the frames, and what
-- else the script is given
local KNOWN, FENCE, RUN, TOKEN, KINDS = tonumber(ARGV[8]), ARGV[9], ARGV[10], ARGV[11], ARGV[12]
local FRAMES, MORE = 12, 12 + #KINDS

local function fenced()
  if FENCE == '' then return nil end
  local fence = redis.call('HGET', OWN, 'f')
  if not fence then return {'GONE'} end
  if fence ~= FENCE then return {'FENCED'} end
end

-- Begin an epoch with the entries that there are: a replica that lagged has become the master, and
-- others have seen entries that are gone.
local function renew(epoch)
  local entries = redis.call('XRANGE', LOG, '-', '+')
  redis.call('DEL', LOG)
  m.e, m.stamp = epoch, stamp(epoch)
  redis.call('HSET', META, 'e', epoch)
  for _, entry in ipairs(entries) do
    redis.call('XADD', LOG, id(tonumber(entry[1]:match('^%d+'))), unpack(entry[2]))
  end
end

local function open()
  if not load() then create(ARGV[6]) end
  if ARGV[7] == m.e and KNOWN > m.s then renew(ARGV[6]) end
  expire()
end

local function write(run, token, kinds)
  local key = 'k:' .. run
  local seq, time = (redis.call('HGET', META, key) or ''):match('^' .. token .. ' (%d+) (%d+)$')
  if seq then return {seq, time} end  -- the reply to it was lost
  local list, known
  if redis.call('HGET', META, 'cur') ~= run or kinds:find('[te]') then
    list = runs()
    known = find(list, run)
    if not known then
      known = {i = run, a = m.s + 1, e = 0, at = 0, d = 0, t = {}}
      list[#list + 1] = known
    end
  end
  for n = 1, #kinds do
    local frame, kind = ARGV[FRAMES + n], kinds:sub(n, n)
    m.s = m.s + 1
    m.b = m.b + ENTRY_BYTES + #frame
    redis.call('XADD', LOG, id(m.s), 'r', run, 't', text(now), 'd', frame)
    if kind ~= 'd' then
      redis.call('HSET', RESULTS, text(m.s), text(now) .. ' ' .. frame)
      known.t[#known.t + 1] = m.s
      if kind == 'e' then
        if known.e == 0 then known.at = now end
        known.e = m.s
      end
    end
  end
  if list then
    save_runs(list)
    redis.call('HSET', META, 'cur', run)
  end
  redis.call('HSET', META, key, token .. ' ' .. text(m.s) .. ' ' .. text(now))
  local first, bytes = m.fs, m.b
  while m.s > first and (m.s - first + 1 > MAX_ENTRIES or bytes > MAX_BYTES) do
    bytes, first = bytes - size_of(first), first + 1
  end
  hide(first)
  save()
  keep()
  return {text(m.s), text(now)}
end

local function written(last) return {'OK', m.e, last[1], last[2], m.s, m.fs, m.b, m.hb, m.fd} end

local function write_all()
  if KINDS == '' then return {'OK'} end
  open()
  return written(write(RUN, TOKEN, KINDS))
end
"""

APPEND = (
    _PRELUDE
    + _APPEND
    + """
return fenced() or write_all()
"""
)

FOLLOW = (
    _PRELUDE
    + """
-- ARGV: epoch if there is none yet, epoch and seq to go on after, whether to rewind
if not load() then create(ARGV[6]); redis.call('PEXPIRE', META, KEEP) end
expire()
local after, start = tonumber(ARGV[8]), tonumber(ARGV[8])
local function gap(reason) return {'GAP', reason, m.e, m.fs, m.s} end
if after > 0 then
  if m.s == 0 then return gap('unknown') end
  if ARGV[7] ~= m.e then return gap('epoch') end
  if after > m.s then return gap('ahead') end
end
if after + 1 < m.fs then return gap('trimmed') end
if ARGV[9] == '1' and after > 0 then
  local entry, list, run = entry_at(after), runs(), nil
  if entry then run = find(list, entry[2][2]) end
  for _, other in ipairs(list) do
    if not run and other.a <= after and (other.e == 0 or other.e >= after) then run = other end
  end
  if run and not (run.e > 0 and run.e <= after) then start = run.a - 1 end
end
if start + 1 < m.fs or (m.s > start and size_of(start + 1) == 0) then return gap('trimmed') end
return {'OK', m.e, m.fs, m.s, time_of(m.s), start}
"""
)

LOOK = (
    _PRELUDE
    + """
-- ARGV: a run, or nothing -> epoch, first, head, start of the run (-1: not held), its results
if not load() then return {} end
expire()
local start, results = -1, {}
local run = ARGV[6] ~= '' and find(runs(), ARGV[6])
if run then
  if run.a >= m.fs then start = run.a - 1 end
  if run.e > 0 then
    for _, seq in ipairs(run.t) do
      results[#results + 1] = {seq, redis.call('HGET', RESULTS, text(seq))}
    end
  end
end
return {m.e, m.fs, m.s, start, results}
"""
)

VIEW = (
    _PRELUDE
    + """
-- ARGV: epoch and seq of the fold that the reader has -> epoch, head, known runs, fold if newer
if not load() then return {} end
expire()
local known = {}
for _, run in ipairs(runs()) do known[#known + 1] = run.i end
local fold = ''
if m.fd > 0 and (ARGV[6] ~= m.e or tonumber(ARGV[7]) < m.fd) then
  fold = redis.call('GET', FOLD) or ''
end
return {m.e, m.s, known, fold}
"""
)

STORE_FOLD = (
    _PRELUDE
    + """
-- ARGV: epoch, seq, fold
if not load() or m.e ~= ARGV[6] then return 0 end
local seq = tonumber(ARGV[7])
if seq <= m.fd or seq > m.s then return 0 end
redis.call('SET', FOLD, ARGV[8], 'PX', KEEP)
redis.call('XTRIM', LOG, 'MINID', id(math.min(m.fs, seq + 1)))
redis.call('HSET', META, 'fd', text(seq), 'hb', '0')
local running = seq < m.s
for _, run in ipairs(runs()) do running = running or run.e == 0 end
if not running then redis.call('PEXPIRE', LOG, FINISHED + 60000) end
return 1
"""
)

DROP = (
    _PRELUDE
    + """
-- ARGV: a run that ended, whose entries are to go -> bytes that the thread takes now
if not load() then return 0 end
expire()
local list = runs()
local run = find(list, ARGV[6])
if run and run.e > 0 then
  run.d = 1
  save_runs(list)
  hide_dropped(list)
end
return m.b
"""
)

CHECK = (
    _PRELUDE
    + """
-- ARGV: the head that the reader knows; a thread that is followed stays -> epoch, first, head, time
-- of the entry at the head that the reader knows
if not load() then return {} end
for n = 1, 6 do
  if redis.call('PTTL', KEYS[n]) < FINISHED + 60000 then
    redis.call('PEXPIRE', KEYS[n], FINISHED + 90000)
  end
end
return {m.e, m.fs, m.s, time_of(tonumber(ARGV[6]))}
"""
)

# --- who runs what ----------------------------------------------------------------------------

_LIVE = """
local function own(field) return redis.call('HGET', OWN, field) end

local function hold(thread, owner, lease)
  redis.call('HSET', OWN, 'o', owner, 'lx', text(now + lease))
  redis.call('HDEL', OWN, 'rel')
  redis.call('ZADD', LEASES, text(now + lease), thread)
  keep()
end

-- A new fence: none is used twice, though Redis was wiped between.
local function bump()
  redis.call('HSET', OWN, 'f', text(math.max(tonumber(own('f') or '0') + 1, now)))
end

local function activate(run)
  redis.call('HSET', OWN, 'act', run)
  redis.call('HINCRBY', OWN, 'a:' .. run, 1)
end

local function leased(run)
  return {run, own('w:' .. run) or '', own('i:' .. run) or '', own('f'), own('a:' .. run) or '1',
    own('c:' .. run) or '0', own('s:' .. run) or '', own('x:' .. run) or ''}
end

local function over(run)
  for _, field in ipairs({'w:', 'i:', 'g:', 'a:', 'c:', 's:', 'x:', 'k:', 'u:'}) do
    redis.call('HDEL', OWN, field .. run)
  end
end

local function place_of(run)
  for place, other in ipairs(redis.call('LRANGE', QUEUE, 0, -1)) do
    if other == run then return place end
  end
end
"""

ADMIT = (
    _PRELUDE
    + _APPEND
    + _LIVE
    + """
-- ARGV of a write (the end of runs that wait to supersede), then: thread, run, work, thread id and
-- graph as JSON, graph, how, limit, owner, lease
local thread, run, work, told, graph, how = unpack(ARGV, MORE + 1, MORE + 6)
local limit, owner, lease = tonumber(ARGV[MORE + 7]), ARGV[MORE + 8], tonumber(ARGV[MORE + 9])
local active = own('act')
if own('w:' .. run) then
  if active == run then
    return own('k:' .. run) == TOKEN and {'MINE', leased(run)} or {'LIVE', 0}
  end
  return {'LIVE', place_of(run) or 0, own('s:' .. run) or nil}
end
if active and how == 'reject' then return {'BUSY'} end
if active and redis.call('LLEN', QUEUE) >= limit then return {'FULL'} end
redis.call('HSET', OWN, 'w:' .. run, work, 'i:' .. run, told, 'g:' .. run, graph,
  'k:' .. run, TOKEN)
if not active then
  bump()
  activate(run)
  hold(thread, owner, lease)
  return {'MINE', leased(run)}
end
if how == 'enqueue' then
  redis.call('RPUSH', QUEUE, run)
  keep()
  return {'LIVE', redis.call('LLEN', QUEUE)}
end
for _, other in ipairs(redis.call('LRANGE', QUEUE, 0, -1)) do
  if own('s:' .. other) then
    redis.call('LREM', QUEUE, 1, other)
    over(other)
    open()
    write(other:match('[^/]*$'), TOKEN, KINDS)
  end
end
redis.call('LPUSH', QUEUE, run)
redis.call('HSET', OWN, 's:' .. run, active, 'x:' .. active, '1')
keep()
return {'LIVE', 1, active}
"""
)

FINISH = (
    _PRELUDE
    + _APPEND
    + _LIVE
    + """
-- ARGV of a write, then: thread, run, interrupted ('1', '0', or as before), owner, lease
local thread, run, interrupted, owner = unpack(ARGV, MORE + 1, MORE + 4)
local lease = tonumber(ARGV[MORE + 5])
if own('fin') ~= TOKEN then
  local no = fenced()
  if no then return no end
  if own('act') ~= run then return {'FENCED'} end
end
local reply = write_all()
if own('fin') ~= TOKEN then
  redis.call('HSET', OWN, 'fin', TOKEN)
  over(run)
  if interrupted == '1' then redis.call('HSET', OWN, 'int', '1') end
  if interrupted == '0' then redis.call('HDEL', OWN, 'int') end
  bump()
  local following = redis.call('LINDEX', QUEUE, 0)
  if following and (not own('int') or own('s:' .. following)) then
    redis.call('LPOP', QUEUE)
    activate(following)
    hold(thread, owner, lease)
  else
    redis.call('HDEL', OWN, 'act', 'o', 'lx', 'rel')
    redis.call('ZREM', LEASES, thread)
  end
end
local active = own('act')
if active and own('o') == owner then reply[#reply + 1] = leased(active) end
return reply
"""
)

WITHDRAW = (
    _PRELUDE
    + _APPEND
    + _LIVE
    + """
-- ARGV of a write, then: run
local run = ARGV[MORE + 1]
if redis.call('LREM', QUEUE, 1, run) == 1 then
  redis.call('HSET', OWN, 'wd', TOKEN)
  over(run)
elseif own('wd') ~= TOKEN then
  return {'NO'}
end
return write_all()
"""
)

RENEW = (
    _PRELUDE
    + _LIVE
    + """
-- ARGV: thread, owner, fence, lease -> whether the active run is to stop
local fence = own('f')
if not fence then return {'GONE'} end
if fence ~= ARGV[8] or own('o') ~= ARGV[7] then return {'FENCED'} end
hold(ARGV[6], ARGV[7], tonumber(ARGV[9]))
return {'OK', own('x:' .. (own('act') or '')) or ''}
"""
)

RELEASE = (
    _PRELUDE
    + _LIVE
    + """
-- ARGV: thread, fence, '1' if that counts as a crash
if own('f') ~= ARGV[7] or not own('act') then return 0 end
bump()
redis.call('HSET', OWN, 'o', '', 'lx', text(now))
if ARGV[8] == '0' then redis.call('HSET', OWN, 'rel', '1') end
redis.call('ZADD', LEASES, text(now), ARGV[6])
return 1
"""
)

CLAIM = (
    _PRELUDE
    + _LIVE
    + """
-- ARGV: thread, owner, lease, call, pauses after a crash…; then the graphs that are served
local thread, owner, lease, call = ARGV[6], ARGV[7], tonumber(ARGV[8]), ARGV[9]
local active = own('act')
if not active then redis.call('ZREM', LEASES, thread); return {'NONE'} end
if own('k:' .. active) == call then return {'MINE', leased(active)} end
local ends, pauses = tonumber(own('lx') or '0'), cjson.decode(ARGV[10])
if ends > now then return {'HELD'} end
local crashes = tonumber(own('c:' .. active) or '0')
if not own('rel') then
  crashes = crashes + 1
  if ends + (pauses[crashes] or pauses[#pauses]) > now then return {'HELD'} end
end
local served = false
for n = 11, #ARGV do served = served or ARGV[n] == own('g:' .. active) end
if not served then return {'HELD'} end
bump()
redis.call('HSET', OWN, 'c:' .. active, crashes, 'k:' .. active, call)
activate(active)
hold(thread, owner, lease)
return {'MINE', leased(active)}
"""
)

LEAVE = (
    _PRELUDE
    + _LIVE
    + """
-- ARGV: thread, fence, patience -> whether others have had the time to carry out the active run
local run = own('act')
if own('f') ~= ARGV[7] or not run then return 0 end
redis.call('HSETNX', OWN, 'u:' .. run, text(now))
if tonumber(own('u:' .. run)) + tonumber(ARGV[8]) <= now then return 1 end
bump()
redis.call('HINCRBY', OWN, 'a:' .. run, -1)
redis.call('HSET', OWN, 'o', '', 'lx', '0', 'rel', '1')
redis.call('ZADD', LEASES, 0, ARGV[6])
return 0
"""
)

STOP = (
    _PRELUDE
    + _LIVE
    + """
-- ARGV: run
if own('act') ~= ARGV[6] then return 0 end
redis.call('HSET', OWN, 'x:' .. ARGV[6], '1')
return 1
"""
)

LIVE = (
    _PRELUDE
    + _LIVE
    + """
-- the live runs, the active one (or nothing) first: run, thread id and graph, attempt
local found = {}
local active = own('act')
found[1] = active and {active, own('i:' .. active) or '', own('a:' .. active) or '1'} or {}
for _, run in ipairs(redis.call('LRANGE', QUEUE, 0, -1)) do
  found[#found + 1] = {run, own('i:' .. run) or '', '0'}
end
return found
"""
)

RESTORE = (
    _PRELUDE
    + _LIVE
    + """
-- ARGV: thread, owner, fence, lease, run, work, thread id and graph as JSON, graph, attempt,
-- crashes, supersedes, epoch, fold (it stands for entry 1), what is known of the runs
local run = ARGV[10]
if own('f') then return own('f') == ARGV[8] and own('o') == ARGV[7] and 1 or 0 end
redis.call('HSET', OWN, 'f', ARGV[8], 'act', run, 'w:' .. run, ARGV[11], 'i:' .. run, ARGV[12],
  'g:' .. run, ARGV[13], 'a:' .. run, ARGV[14], 'c:' .. run, ARGV[15])
if ARGV[16] ~= '' then redis.call('HSET', OWN, 's:' .. run, ARGV[16]) end
if (not load() or m.s == 0) and ARGV[18] ~= '' then
  create(m.e or ARGV[17])  -- somebody may follow it already
  redis.call('HSET', META, 's', '1', 'fs', '2', 'fd', '1')
  redis.call('SET', FOLD, ARGV[18])
  m.s = 1
  local list = {}
  for _, known in ipairs(cjson.decode(ARGV[19])) do
    local e = known[2] and 1 or 0
    list[#list + 1] = {i = known[1], a = 2 - e, e = e, at = now, d = e, t = {}}
  end
  save_runs(list)
end
hold(ARGV[6], ARGV[7], tonumber(ARGV[9]))
return 1
"""
)

WATCH = (
    _PRELUDE
    + """
-- ARGV: owner, for how long (0: no longer)
local long = tonumber(ARGV[7])
if long == 0 then return redis.call('ZREM', VIEWERS, ARGV[6]) end
redis.call('ZADD', VIEWERS, text(now + long), ARGV[6])
redis.call('PEXPIRE', VIEWERS, long)
return 1
"""
)

WATCHED = (
    _PRELUDE
    + """
-- ARGV: owner -> how many others there are
redis.call('ZREMRANGEBYSCORE', VIEWERS, '-inf', text(now))
return redis.call('ZCARD', VIEWERS) - (redis.call('ZSCORE', VIEWERS, ARGV[6]) and 1 or 0)
"""
)

TAKE_BACK = """
-- KEYS: where a run is to be found; ARGV: what this process wrote there
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
"""

DUE = """
-- KEYS: the leases of a slot; ARGV: how many to leave out, and how many to name -> threads whose
-- lease has ended
local t = redis.call('TIME')
local now = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', ARGV[1], ARGV[2])
"""
