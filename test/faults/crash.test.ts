import assert from "node:assert/strict";
import { test } from "node:test";
import type * as Tasks from "../fixtures/soak-tasks.js";
import { CountedLoad } from "../support/counted-load.js";
import { eventually } from "../support/gate.js";
import { fixture, manage } from "../support/manage.js";
import { startRedis } from "../support/redis-server.js";

const CRASHES = 20;
const THREADS = 4;

test("across 20 crashes of Redis under load no acknowledged write is lost and none runs twice", async (t) => {
  const server = await startRedis({ args: ["--appendonly", "yes", "--appendfsync", "always"] });
  const manager = manage<typeof Tasks>(t, server, { tasks: fixture("soak-tasks"), threads: { count: THREADS } });
  t.after(() => server.stop());
  await manager.ready();
  // Every fourth write takes a connection of its own, every eighth is a compare-and-set.
  let writes = 0;
  const load = new CountedLoad({
    callers: 8 * THREADS,
    write(key) {
      writes++;
      if (writes % 8 === 0) return manager.run("incrWatched", key);
      return manager.run(writes % 4 === 0 ? "incrDedicated" : "incr", key);
    },
  });
  for (let crash = 0; crash < CRASHES; crash++) {
    await load.progress(100);
    await server.kill();
    await server.start();
  }
  await load.progress(100);
  await load.stop();
  t.diagnostic(load.summary());
  assert.deepEqual(await load.problems(server), []);
  // Without this no crash has hit a command on its way, and the test has shown nothing.
  assert.ok(load.ledger.totals.uncertain >= CRASHES, load.summary());
  await eventually(() => manager.stats().breaker.state === "closed");
  assert.ok(manager.stats().threads.every(({ state }) => state === "ready"));
});
