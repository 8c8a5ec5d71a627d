import assert from "node:assert/strict";
import { after, test } from "node:test";
import type { ConnectionManager } from "../../src/index.js";
import type * as Tasks from "../fixtures/near-face-tasks.js";
import { loadConfig } from "../../src/config/env.js";
import { ownWrites } from "../../src/commands/own-writes.js";
import { eventually } from "../support/gate.js";
import { code, fixture, manage } from "../support/manage.js";
import { startRedis } from "../support/redis-server.js";

const LIMIT = { timeout: 60_000 };
const server = await startRedis();
after(() => server.stop());

type Manager = ConnectionManager<typeof Tasks>;
const tasks = fixture("near-face-tasks");
const nearCache = { prefixes: ["hot:", "flags:"] };

test(
  "a value that one thread has read is in the memory of all, and a write by others drops it everywhere",
  LIMIT,
  async (t) => {
    await server.admin.set("hot:a", "one");
    const manager: Manager = manage<typeof Tasks>(t, server, { tasks, nearCache });
    await manager.ready();
    assert.equal(await manager.run("readUntilHit", "hot:a"), "one");
    await eventually(async () => manager.near.peek("hot:a") === "one", 10_000, "the main thread has it without a GET");
    await server.admin.set("hot:a", "two");
    await eventually(async () => (await manager.near.get("hot:a")) === "two", 10_000, "the write was told of");
    assert.equal(await manager.run("readUntilHit", "hot:a"), "two");
  },
);

test("values are served as soon as the server has answered twice, however old they may become", LIMIT, async (t) => {
  await server.admin.set("hot:soon", "one");
  const maxStaleMs = 3_600_000; // the questions that follow are 12 minutes apart
  const manager: Manager = manage<typeof Tasks>(t, server, { tasks, nearCache: { ...nearCache, maxStaleMs } });
  await manager.ready();
  await eventually(
    async () => {
      await manager.near.get("hot:soon");
      return manager.near.peek("hot:soon") === "one";
    },
    20_000,
    "it is served",
  );
});

test("a key that is missing is known to be missing, until it is made", LIMIT, async (t) => {
  await server.admin.del("hot:none");
  const manager: Manager = manage<typeof Tasks>(t, server, { tasks, nearCache });
  await manager.ready();
  assert.equal(await manager.run("readUntilHit", "hot:none"), null);
  await server.admin.set("hot:none", "made");
  await eventually(async () => (await manager.near.get("hot:none")) === "made", 10_000, "it is made");
});

test("own writes are seen at once, by the thread that wrote and by the others", LIMIT, async (t) => {
  await server.admin.set("hot:own", "0");
  const manager: Manager = manage<typeof Tasks>(t, server, { tasks, nearCache });
  await manager.ready();
  for (let i = 1; i <= 200; i++) {
    await manager.run("get", "hot:own");
    const seen = await manager.run("write", { key: "hot:own", value: String(i) });
    assert.ok(seen === undefined || seen === String(i));
    const all = await Promise.all([
      manager.near.get("hot:own"),
      manager.run("get", "hot:own"),
      manager.run("get", "hot:own"),
    ]);
    assert.deepEqual(all, [String(i), String(i), String(i)]);
  }
});

test("a synchronous write is seen at once, too", LIMIT, async (t) => {
  const manager: Manager = manage<typeof Tasks>(t, server, { tasks, nearCache });
  await manager.ready();
  await manager.run("readUntilHit", "hot:sync");
  assert.equal(await manager.run("writesUnseenAfterSync", { key: "hot:sync", count: 200 }), 0);
});

test("the parsed object of a value is one for all callers of a thread, frozen in depth", LIMIT, async (t) => {
  await server.admin.set("hot:json", '{"list":[1,{"deep":true}]}');
  const manager: Manager = manage<typeof Tasks>(t, server, { tasks, nearCache });
  await manager.ready();
  await manager.run("readUntilHit", "hot:json");
  assert.deepEqual(await manager.run("sameObject", "hot:json"), { isSame: true, isFrozen: true });
  await server.admin.set("hot:bad", '{"password":"secret"');
  await assert.rejects(manager.near.json("hot:bad"), (error: Error) => {
    return error.name === "SyntaxError" && error.message.includes("hot:bad") && !error.message.includes("secret");
  });
});

test("the first object that a thread parses is the one that its later callers get", LIMIT, async (t) => {
  await server.admin.set("hot:first", "{}");
  const maxStaleMs = 10_000; // a busy machine does not end the lease
  const manager: Manager = manage<typeof Tasks>(t, server, { tasks, nearCache: { ...nearCache, maxStaleMs } });
  await eventually(() => (manager.stats().near?.leaseMs ?? 0) > 0, 20_000, "values may be served");
  assert.equal(await manager.run("objectsOf", { key: "hot:first", reads: 5 }), 1);
});

test("mget wants a list of keys", LIMIT, async (t) => {
  const manager: Manager = manage<typeof Tasks>(t, server, { tasks, nearCache });
  await manager.ready();
  await assert.rejects(manager.near.mget("hot:a" as never), /^TypeError: near.mget\(\) needs an array of keys/);
});

test(
  "callers that share a GET share no memory, and a key that is changed after the call is not the key that was read",
  LIMIT,
  async (t) => {
    await server.admin.mset("hot:bytes", "bytes", "hot:key", "its value");
    const manager: Manager = manage<typeof Tasks>(t, server, { tasks, nearCache });
    await manager.ready();
    assert.deepEqual(await manager.run("getManyBuffers", "hot:bytes"), ["bytes", "bytes"]);
    assert.equal(await manager.run("getThenChangeKey", "hot:key"), "its value");
    assert.equal(await manager.run("getFresh", "hot:key"), "its value");
  },
);

test("a key beside the prefixes is refused by name", LIMIT, async (t) => {
  const manager: Manager = manage<typeof Tasks>(t, server, { tasks, nearCache });
  await manager.ready();
  await assert.rejects(
    manager.run("get", "cold:a"),
    (error: Error) => code("COMMAND_REFUSED")(error) && error.message.includes("cold:a"),
  );
  assert.throws(() => manager.near.peek("cold:a"), code("COMMAND_REFUSED"));
  await assert.rejects(manager.near.get(7 as never), TypeError);
});

test("without prefixes there is no near cache, and who asks for it is told so", LIMIT, async (t) => {
  const manager: Manager = manage<typeof Tasks>(t, server, { tasks });
  await manager.ready();
  await assert.rejects(manager.run("get", "hot:a"), code("CONFIG_INVALID"));
  await assert.rejects(manager.near.get("hot:a"), code("CONFIG_INVALID"));
});

test(
  "commands that ioredis does not know drop everything, until the server has said that they only read",
  LIMIT,
  async (t) => {
    await server.admin.set("hot:kept", "kept");
    const manager: Manager = manage<typeof Tasks>(t, server, { tasks, nearCache });
    await manager.ready();
    const redis = await manager.getRedis();
    const isKeptAfter = async (...command: [string, ...string[]]): Promise<boolean> => {
      await manager.run("readUntilHit", "hot:kept");
      await redis.call(...command).catch(() => {});
      return manager.near.peek("hot:kept") === "kept";
    };
    assert.equal(await isKeptAfter("no.such.command"), false);
    assert.equal(await isKeptAfter("get", "hot:kept"), true);
    assert.equal(await isKeptAfter("set", "cold:a", "x"), true);
    assert.equal(await isKeptAfter("no.such.command"), false, "the server does not know it either");
  },
);

test("with a Cluster, with prefixes that overlap, and without a place for its connection it is refused before anything opens", () => {
  const problemsOf = (more: object): string => {
    try {
      return String(void loadConfig({ env: {}, tasks: String(tasks), nearCache, ...more }, { requireTasks: true }));
    } catch (error) {
      return String((error as { problems?: string[] }).problems);
    }
  };
  assert.match(
    problemsOf({ redis: { clusterNodes: [{ host: "a" }] } }),
    /nearCache.prefixes: cannot be used with redis.clusterNodes/,
  );
  assert.match(problemsOf({ nearCache: { prefixes: ["a:", "a:b"] } }), /must not overlap/);
  assert.match(problemsOf({ nearCache: { prefixes: ["a\ud800"] } }), /nearCache.prefixes\[0\]/);
  const large = { threads: { count: 8 }, nearCache: { ...nearCache, maxValueBytes: 2 ** 24 } };
  assert.match(problemsOf(large), /nearCache.maxValueBytes: is too large for 8 threads/);
  assert.match(problemsOf({ nearCache: { maxStaleMs: 100 } }), /means nothing without nearCache.prefixes/);
  assert.match(problemsOf({ threads: { count: 2 }, connections: { max: 4 } }), /at least 5 for a near cache/);
  assert.match(
    problemsOf({ threads: { count: 2 }, nearCache: { ...nearCache, maxBytes: 2 ** 20 } }),
    /must be at least 6291456/,
  );
});

for (const fresh of [false, true])
  test(
    `a read does not join a GET that left long ago in the same turn${fresh ? ", above all no fresh one" : ""}`,
    LIMIT,
    async (t) => {
      const manager: Manager = manage<typeof Tasks>(t, server, { tasks, nearCache });
      await manager.ready();
      const key = "hot:turn";
      await server.admin.set(key, "old");
      await manager.near.get(key, { fresh: true });
      const gates = new Int32Array(new SharedArrayBuffer(8));
      const writing = manager.run("writeAtGate", { gates, key, value: "new" });
      const redis = await manager.getRedis();
      // Where turns compute, a command leaves at once and not at the end of its turn.
      await Promise.all([redis.get("cold:a"), redis.get("cold:b")]);
      for (const end = performance.now() + 20; performance.now() < end;);
      await redis.get("cold:c");
      await new Promise(setImmediate);
      await server.admin.set(key, "old"); // the next read misses
      const first = manager.near.get(key, { fresh: true });
      for (let i = 0; i < 20; i++) await Promise.resolve();
      Atomics.store(gates, 0, 1);
      Atomics.notify(gates, 0);
      while (Atomics.load(gates, 1) === 0);
      assert.equal(await manager.near.get(key, { fresh }), "new");
      await Promise.all([first, writing]);
    },
  );

test("an EXEC drops what its transaction wrote, also if a second MULTI was refused in it", LIMIT, async (t) => {
  const manager: Manager = manage<typeof Tasks>(t, server, { tasks, nearCache });
  await manager.ready();
  assert.equal(await manager.run("nestedMulti", { key: "hot:multi", rounds: 200 }), 0);
});

test("a cache that is closed is garbage, as its manager is", LIMIT, async (t) => {
  const manager: Manager = manage<typeof Tasks>(t, server, { tasks, nearCache });
  await manager.ready();
  assert.equal(await ownWrites.ready, undefined, "it lives as long as the process");
  await manager.shutdown();
  assert.equal(ownWrites.note, undefined);
});

test("text that is no text names no key of bytes", LIMIT, async (t) => {
  await server.admin.set("hot:bytes", "bytes");
  const manager: Manager = manage<typeof Tasks>(t, server, { tasks, nearCache });
  await manager.ready();
  await eventually(async () => {
    await manager.near.get(Buffer.from("hot:bytes"));
    return manager.near.peek(Buffer.from("hot:bytes")) === "bytes";
  });
  assert.throws(() => manager.near.peek("\udc00hot:bytes"), code("COMMAND_REFUSED"));
});

test("threads that miss a key at the same time keep it once", LIMIT, async (t) => {
  const manager: Manager = manage<typeof Tasks>(t, server, { tasks, nearCache, threads: { count: 2 } });
  await manager.ready();
  await server.admin.set("hot:gone", "x");
  assert.equal(await manager.run("readUntilHit", "hot:gone"), "x");
  const large = "y".repeat(60_000);
  const used = (): number => manager.stats().near!.usedBytes;
  const before = used();
  const keys = Array.from({ length: 20 }, (_, i) => `hot:once ${i}`);
  for (const key of keys) await server.admin.set(key, large);
  for (const key of keys) {
    await Promise.all([
      manager.run("get", key),
      manager.near.get(key),
      manager.run("get", key),
      manager.run("get", key),
    ]);
  }
  const added = used() - before;
  assert.ok(added < 1.5 * 20 * 60_000, `${added} bytes`);
});
