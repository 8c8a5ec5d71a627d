import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import KeyvRedis from "@keyv/redis";
import Keyv from "keyv";
import { killedHandle, SOURCES } from "../support/killed-handle.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
after(() => server.stop());

// @keyv/redis 2, the last version that takes ioredis clients; from 3 on it takes node-redis clients only.
for (const source of SOURCES) {
  test(`keyv caches with ${source}, taken before a CLIENT KILL`, { timeout: 30_000 }, async (t) => {
    const redis = await killedHandle(t, server, source);
    const keyv = new Keyv<{ n: number }>({ store: new KeyvRedis(redis as never), namespace: source });
    await keyv.set("a", { n: 1 });
    await keyv.set("b", { n: 2 }, 60_000);
    assert.deepEqual(await keyv.get("a"), { n: 1 });
    assert.ok((await redis.pttl(`${source}:b`)) > 0);
    assert.deepEqual(await keyv.get(["a", "missing", "b"]), [{ n: 1 }, undefined, { n: 2 }]);
    assert.equal(await keyv.delete("a"), true);
    assert.equal(await keyv.get("a"), undefined);
    await keyv.clear();
    assert.equal(await keyv.get("b"), undefined);
  });
}
