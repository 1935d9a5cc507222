-- Sliding windows, strict: no window of that length, wherever it begins, holds more than its limit.
-- The same rule as in one process (domain/rate): time is counted in sixtieths of the window, and 61
-- of them are kept.
--
-- KEYS[1]  a hash: for window i its total (i..'t'), its newest part (i..'n') and a count for each part
-- ARGV[1]  how many are wanted; 0 only asks how long the next has to wait; less than 0 gives back so many
-- ARGV[2]  1: all or none
-- ARGV[3…] for each window: the most, and the length of a part in microseconds
-- Gives    how many pass; if none, which window is to be waited for and for how many microseconds
local PARTS = 61
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local wanted = tonumber(ARGV[1])
local key = KEYS[1]
local windows = {}
local room = wanted

local function save(window)
  redis.call('HSET', key, window.i .. 'n', string.format('%d', window.newest), window.i .. 't', window.total)
end

for i = 1, (#ARGV - 2) / 2 do
  local most, part = tonumber(ARGV[1 + 2 * i]), tonumber(ARGV[2 + 2 * i])
  if most > 0 then
    local stored = redis.call('HMGET', key, i .. 'n', i .. 't')
    local current = math.floor(now / part)
    -- A clock that goes back is taken to stand.
    local newest = tonumber(stored[1] or current)
    local total = tonumber(stored[2] or 0)
    if current > newest then
      local steps = math.min(current - newest, PARTS)
      for step = 1, steps do
        local field = i .. ':' .. ((newest + step) % PARTS)
        local count = redis.call('HGET', key, field)
        if count then
          total = total - tonumber(count)
          redis.call('HDEL', key, field)
        end
      end
      newest = current
      -- Also if nothing passes: what was forgotten cannot be taken from the total a second time.
      save({ i = i, newest = newest, total = total })
    end
    windows[#windows + 1] =
      { i = i, most = most, part = part, newest = newest, total = total, stored = stored[1] }
    room = math.min(room, most - total)
  end
end

if wanted < 0 then
  for _, window in ipairs(windows) do
    local left = math.min(-wanted, window.total)
    window.total = window.total - left
    for age = 0, PARTS - 1 do
      if left == 0 then break end
      local field = window.i .. ':' .. ((window.newest - age) % PARTS)
      local count = tonumber(redis.call('HGET', key, field) or 0)
      local taken = math.min(left, count)
      if taken > 0 then
        redis.call('HINCRBY', key, field, -taken)
        left = left - taken
      end
    end
    -- What is not counted any more is not counted again, and would have no end.
    if window.stored then save(window) end
  end
  return { 0, 0, 0 }
end

if room <= 0 or (ARGV[2] == '1' and room < wanted) then
  local needed = 1
  if ARGV[2] == '1' then needed = wanted end
  local longest, which = 0, 1
  for _, window in ipairs(windows) do
    local total, wait = window.total, 0
    for age = PARTS - 1, 0, -1 do
      if total <= window.most - needed then break end
      local place = window.newest - age
      total = total - tonumber(redis.call('HGET', key, window.i .. ':' .. (place % PARTS)) or 0)
      -- A part is forgotten when the one after a whole window begins.
      wait = math.max(wait, (place + PARTS) * window.part - now)
    end
    if wait > longest then longest, which = wait, window.i end
  end
  return { 0, which, math.ceil(longest) }
end

local longest = 0
for _, window in ipairs(windows) do
  window.total = window.total + room
  redis.call('HINCRBY', key, window.i .. ':' .. (window.newest % PARTS), room)
  save(window)
  longest = math.max(longest, window.part * PARTS)
end
redis.call('PEXPIRE', key, math.ceil(longest / 1000) + 1000)
return { room, 0, 0 }
