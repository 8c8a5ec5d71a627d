import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { ConnectGate } from "../../src/gate/connect-gate.js";
import type * as Tasks from "../fixtures/tasks.js";
import { configFor } from "../support/fast-config.js";
import { code, fixture, manage } from "../support/manage.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
after(() => server.stop());

test("a budget that cannot hold the threads is refused by name", () => {
  assert.throws(
    () => configFor(server, { threads: { count: 4 }, connections: { max: 5 } }),
    (error: Error) => {
      assert.ok(code("CONFIG_INVALID")(error));
      assert.match(error.message, /connections\.max: must be at least 6/);
      return true;
    },
  );
  const config = configFor(server, { threads: { count: 4 }, connections: { max: 6 } });
  assert.ok(ConnectGate.buffer(config).byteLength > 0);
});

test("ready() warns of a server whose maxclients cannot hold the process", async (t) => {
  const small = await startRedis({ args: ["--maxclients", "20"] });
  const warnings: [string, unknown][] = [];
  const warn = (message: string, fields?: unknown): number => warnings.push([message, fields]);
  const manager = manage<typeof Tasks>(t, small, {
    tasks: fixture("tasks"),
    threads: { count: 4 },
    logger: { debug() {}, info() {}, error() {}, warn },
  });
  t.after(() => small.stop());
  await manager.ready();
  assert.equal(warnings.length, 1);
  assert.match(warnings[0]![0], /maxclients/);
  assert.deepEqual(warnings[0]![1], { maxclients: 20, others: 0, needed: 23 });
});
