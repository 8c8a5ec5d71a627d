import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { RateLimiterRedis, RateLimiterRes } from "rate-limiter-flexible";
import { killedHandle, SOURCES } from "../support/killed-handle.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
after(() => server.stop());

for (const source of SOURCES) {
  test(`rate-limiter-flexible limits with ${source}, taken before a CLIENT KILL`, { timeout: 30_000 }, async (t) => {
    const storeClient = await killedHandle(t, server, source);
    const limiter = new RateLimiterRedis({ storeClient, keyPrefix: source, points: 3, duration: 60 });
    for (const left of [2, 1, 0]) assert.equal((await limiter.consume("somebody")).remainingPoints, left);
    await assert.rejects(limiter.consume("somebody"), (refused) => {
      assert.ok(refused instanceof RateLimiterRes, String(refused));
      assert.equal(refused.consumedPoints, 4);
      return refused.msBeforeNext > 0;
    });
    assert.equal((await limiter.consume("somebody else")).remainingPoints, 2);
    assert.equal(await limiter.delete("somebody"), true);
    assert.equal((await limiter.consume("somebody")).remainingPoints, 2);
  });
}
