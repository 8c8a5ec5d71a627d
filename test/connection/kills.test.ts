import assert from "node:assert/strict";
import { after, before, beforeEach, test, type TestContext } from "node:test";
import type { ConnectionManager } from "../../src/index.js";
import type * as KillTasks from "../fixtures/kill-tasks.js";
import { eventually } from "../support/gate.js";
import { fixture, manage } from "../support/manage.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
beforeEach(() => server.admin.flushall());
after(() => server.stop());

type Manager = ConnectionManager<typeof KillTasks>;

async function killable(t: TestContext): Promise<Manager> {
  const manager = manage<typeof KillTasks>(t, server, {
    tasks: fixture("kill-tasks"),
    threads: { count: 1 },
    retry: { baseDelayMs: 5, maxDelayMs: 50 },
    redis: {
      port: server.port,
      scripts: { addOne: { lua: "return redis.call('INCR', KEYS[1])", numberOfKeys: 1 } },
    },
  });
  await manager.ready();
  return manager;
}

/** Kills the thread's client of this role and waits until another connection bears its name. */
async function kill(role: "thread" | "dedicated"): Promise<void> {
  const find = async (): Promise<string | undefined> =>
    (await server.clients()).find(({ name }) => name.endsWith(`:${role}`))?.id;
  const id = await eventually(async () => (await find()) ?? false);
  await server.admin.client("KILL", "ID", id);
  await eventually(async () => ![undefined, id].includes(await find()), 10_000, `${role} is back after a kill`);
}

test("a client held by a task across 50 kills keeps working, each command settles, and nothing runs twice", async (t) => {
  const manager = await killable(t);
  const held = manager.run("hold");
  for (let i = 0; i < 50; i++) {
    await kill("thread");
    if (i % 10 === 0) await server.admin.script("FLUSH");
  }
  await manager.run("stop");
  const tallies = await held;
  for (const [name, tally] of Object.entries(tallies)) {
    const { issued, acknowledged, replyLost, notSent, others } = tally;
    const counter = Number(await server.admin.get(name));
    t.diagnostic(`${name}: ${acknowledged} acknowledged, ${replyLost} lost, ${notSent} not sent, counter ${counter}`);
    assert.deepEqual(others, []);
    assert.equal(acknowledged + replyLost + notSent, issued);
    assert.ok(acknowledged > 50, `${name} made progress`);
    assert.ok(acknowledged <= counter && counter <= acknowledged + replyLost, `${name}: counter ${counter}`);
  }
  assert.ok(tallies.incr.replyLost + tallies.script.replyLost + tallies.transaction.replyLost > 0);
  const { reconnects, dedicated } = manager.stats().threads[0]!;
  // Fewer than the kills if a kill hit a connection that had its name, but not yet its first answer.
  assert.ok(reconnects > 0 && reconnects <= 50, `${reconnects} reconnects`);
  assert.equal(dedicated.out, 0);
});

/** Publishes until one subscriber has received the message. */
async function publish(message: string): Promise<void> {
  await eventually(async () => (await server.admin.publish("news", message)) === 1);
}

test("a dedicated client's subscription comes back after every kill", async (t) => {
  const manager = await killable(t);
  const heard = manager.run("listen", "news");
  await publish("first");
  for (let i = 0; i < 10; i++) {
    await kill("dedicated");
    await publish(`after kill ${i}`);
  }
  await publish("stop");
  assert.deepEqual(await heard, ["first", ...Array.from({ length: 10 }, (_, i) => `after kill ${i}`), "stop"]);
});

test("a blocking pop that a kill cuts off says so, and the next one gets the next item", async (t) => {
  const manager = await killable(t);
  const consumed = manager.run("consume", "list");
  const isWaiting = async (): Promise<boolean> =>
    (await server.clients()).some(({ name, flags }) => name.endsWith(":dedicated") && flags.includes("b"));
  for (let i = 0; i < 10; i++) {
    await eventually(isWaiting);
    await kill("dedicated");
    await eventually(isWaiting);
    await server.admin.rpush("list", `item ${i}`);
  }
  await server.admin.rpush("list", "stop");
  const { items, replyLost } = await consumed;
  assert.deepEqual(
    items,
    Array.from({ length: 10 }, (_, i) => `item ${i}`),
  );
  assert.equal(replyLost, 10);
});
