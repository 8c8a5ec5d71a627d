import assert from "node:assert/strict";
import { after, test } from "node:test";
import { eventually } from "../support/gate.js";
import { fixture, manage } from "../support/manage.js";
import { startRedis } from "../support/redis-server.js";

const MAX_STALE_MS = 60;
const BUSY_MS = 1_000;

const COMPUTE = `local from = redis.call("time") repeat local t = redis.call("time")
  until (t[1] - from[1]) * 1000 + (t[2] - from[2]) / 1000 > ${BUSY_MS}`;

const server = await startRedis({ args: ["--busy-reply-threshold", "20"] });
after(() => server.stop());

test("a server that answers in the middle of a script, before it tells of the write ahead of the script, proves nothing", async (t) => {
  const nearCache = { prefixes: ["near:"], maxStaleMs: MAX_STALE_MS };
  const manager = manage(t, server, { tasks: fixture("near-tasks"), nearCache });
  await manager.ready();
  const { admin: writer } = server;
  await writer.set("near:key", "first");
  const isServing = async (): Promise<boolean> => {
    await manager.near.get("near:key");
    return manager.near.peek("near:key") !== undefined;
  };
  await eventually(isServing);

  const computer = writer.duplicate();
  await computer.ping();
  server.freeze(); // and reads both at once
  const written = writer.set("near:key", "second");
  const computed = computer.eval(COMPUTE, 0).finally(() => computer.disconnect());
  await new Promise((resolve) => setImmediate(resolve));
  server.thaw();
  await written;
  const replacedAt = performance.now();
  let isOver = false;
  const over = computed.then(() => (isOver = true));
  let oldestMs = 0;
  while (!isOver) {
    const began = performance.now();
    if (manager.near.peek("near:key") === "first") oldestMs = began - replacedAt;
    await new Promise((resolve) => setImmediate(resolve));
  }
  await over;
  assert.ok(performance.now() - replacedAt > BUSY_MS / 2, "the write was acknowledged before the script was over");
  assert.ok(oldestMs <= MAX_STALE_MS, `the old value was served ${oldestMs} ms after it was replaced`);
  assert.equal(await manager.near.get("near:key"), "second");
  await eventually(isServing); // again
});
