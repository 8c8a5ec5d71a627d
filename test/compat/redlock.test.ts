import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import Redlock from "redlock";
import { killedHandle, SOURCES } from "../support/killed-handle.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
after(() => server.stop());

for (const source of SOURCES) {
  test(`redlock locks with ${source}, taken before a CLIENT KILL`, { timeout: 30_000 }, async (t) => {
    const redis = await killedHandle(t, server, source);
    const redlock = new Redlock([redis], { retryCount: 0 });
    const resources = [`${source}:a`, `${source}:b`];
    const lock = await redlock.acquire(resources, 20_000);
    await assert.rejects(redlock.acquire(resources.slice(1), 20_000));
    const longer = await lock.extend(25_000);
    assert.ok((await redis.pttl(resources[0]!)) > 20_000);
    await longer.release();
    const used = await redlock.using(resources, 20_000, async (signal) => {
      assert.equal(await redis.exists(...resources), 2);
      return signal.aborted;
    });
    assert.equal(used, false);
    assert.equal(await redis.exists(...resources), 0);
  });
}
