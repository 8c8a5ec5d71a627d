import type { ScriptDefinition } from "../commands/scripts.js";

// What runs on the server for a lock with `limit` holders: a sorted set of its holders (token, space, name) by the times at which
// they end, in ms since 1970 by the server's clock. The limit is one more member, which never ends.

const NOW = "local time = redis.call('TIME') local now = time[1] * 1000 + math.floor(time[2] / 1000)\n";

/** KEYS: holders. ARGV: holder, ttl, limit. Says 1 (acquired), 0 and the holder that ends first, or 2 and the limit of the others. */
export const ACQUIRE_SHARED: ScriptDefinition = {
  numberOfKeys: 1,
  lua: `${NOW}redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local others = redis.call('ZCOUNT', KEYS[1], '-inf', '(+inf')
local limit = redis.call('ZRANGEBYSCORE', KEYS[1], '+inf', '+inf')[1]
if others == 0 and limit then
  redis.call('DEL', KEYS[1])
  limit = nil
end
if limit and limit ~= ARGV[3] then return {2, limit} end
if others >= tonumber(ARGV[3]) and not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
  return {0, first[1], first[2] - now}
end
redis.call('ZADD', KEYS[1], '+inf', ARGV[3], now + ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[1], math.max(redis.call('PTTL', KEYS[1]), ARGV[2]))
return {1, ARGV[1]}`,
};

/** KEYS: holders of several locks. ARGV: for each the own holder and its ttl. Says for each whether it was extended. */
export const EXTEND_SHARED: ScriptDefinition = {
  lua: `${NOW}local done = {}
for i = 1, #KEYS do
  local holder, ttl = ARGV[2 * i - 1], ARGV[2 * i]
  local ends = redis.pcall('ZSCORE', KEYS[i], holder)
  done[i] = 0
  if type(ends) == 'string' and tonumber(ends) > now then
    redis.call('ZADD', KEYS[i], now + ttl, holder)
    redis.call('PEXPIRE', KEYS[i], math.max(redis.call('PTTL', KEYS[i]), ttl))
    done[i] = 1
  end
end
return done`,
};

/** KEYS: holders. ARGV: the own holder, the channel of the waiters. */
export const releaseSharedBy = (publish: string): ScriptDefinition => ({
  numberOfKeys: 1,
  lua: `if redis.call('ZREM', KEYS[1], ARGV[1]) == 0 then return 0 end
if redis.call('ZCOUNT', KEYS[1], '-inf', '(+inf') == 0 then redis.call('DEL', KEYS[1]) end
redis.pcall('${publish}', ARGV[2], '')
return 1`,
});
