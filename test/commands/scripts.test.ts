import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";
import { openClient } from "../support/make-client.js";
import { own, type Redis } from "../support/own-client.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

// Scripts run in their place, whatever scripts the server has forgotten.

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
beforeEach(() => server.admin.flushall());
after(() => server.stop());

const SCRIPTS = { addone: { numberOfKeys: 1, lua: "return redis.call('INCRBY', KEYS[1], ARGV[1])" } };

type Scripted = Redis & { addone(key: string, by: number): Promise<number> };
type Piped = ReturnType<Redis["pipeline"]> & { addone(key: string, by: number): Piped };

test("a script of a transaction that did not run does not count as loaded", async (t) => {
  const redis = (await own(t, server, { redis: { scripts: SCRIPTS } })) as Scripted;
  await redis.watch("n");
  await server.admin.set("n", 7);
  assert.equal(await (redis.multi() as Piped).addone("n", 1).exec(), null);
  for (let i = 1; i <= 2; i++) {
    assert.deepEqual(await (redis.multi().set("m", 1) as Piped).addone("n", 1).exec(), [
      [null, "OK"],
      [null, 7 + i],
    ]);
  }
  await redis.addone("n", 0);
  await server.admin.script("FLUSH");
  const script = redis.addone("n", 1);
  void redis.multi({ pipeline: false });
  assert.equal(await script, 10);
  await redis.addone("n", 1);
  assert.deepEqual(await redis.exec(), [[null, 11]]);
});

test("scripts run in their place, also after SCRIPT FLUSH", async (t) => {
  const { redis } = await openClient(t, server, { redis: { scripts: SCRIPTS } });
  const scripted = redis as unknown as Scripted;
  assert.equal(await scripted.addone("n", 1), 1);
  await server.admin.script("FLUSH");
  assert.deepEqual(await (redis.multi().set("m", 1) as Piped).addone("n", 1).exec(), [
    [null, "OK"],
    [null, 2],
  ]);
  await server.admin.script("FLUSH");
  const replies = await (redis.pipeline() as Piped).addone("p", 1).set("p", 100).exec();
  assert.deepEqual(replies, [
    [null, 1],
    [null, "OK"],
  ]);
  assert.equal(await redis.get("p"), "100");
  await server.admin.script("FLUSH");
  assert.equal(await scripted.addone("n", 1), 3);
  await server.admin.config("RESETSTAT");
  for (let i = 0; i < 3; i++) await scripted.addone("n", 1);
  const stats = await server.admin.info("commandstats");
  assert.match(stats, /cmdstat_evalsha:calls=3,/);
});
