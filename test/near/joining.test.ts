import assert from "node:assert/strict";
import { after, test } from "node:test";
import { eventually } from "../support/gate.js";
import { fixture, manage } from "../support/manage.js";
import { Program } from "../support/program.js";
import { startProxy } from "../support/proxy.js";
import { startRedis } from "../support/redis-server.js";

const server = await startRedis({
  acl: "user app on nopass ~* &* +@all -client|tracking\nuser default on nopass ~* &* +@all",
});
const proxy = await startProxy(server.port);
after(async () => {
  proxy.close();
  await server.stop();
});

test("while nothing is tracked, a read does not get the reply of a GET that ran before it began", async (t) => {
  const warned: unknown[] = [];
  const manager = manage(t, server, {
    tasks: fixture("idle-tasks"),
    threads: { count: 1 },
    redis: { port: proxy.port, username: "app" },
    nearCache: { prefixes: ["flags:"] },
    logger: { debug() {}, info() {}, error() {}, warn: (message, fields) => void warned.push([message, fields]) },
  });
  await manager.ready();
  await eventually(() => warned.length > 0);
  await server.admin.set("flags:eu", "old");
  await manager.near.get("flags:uk"); // everything is loaded
  await server.admin.config("RESETSTAT");
  proxy.latencyMs = 300;
  const first = manager.near.get("flags:eu");
  await eventually(async () => /cmdstat_get:/.test(await server.admin.info("commandstats")));
  await server.admin.set("flags:eu", "new");
  const second = manager.near.get("flags:eu");
  assert.deepEqual(await Promise.all([first, second]), ["old", "new"]);
  proxy.latencyMs = 0;
});

test("the text of what was read is not kept until the next full collection", async (t) => {
  const execArgv = ["--initial-heap-size=3000", "--no-incremental-marking"];
  const program = new Program(t, "near-misses", [String(server.port)], { execArgv });
  const { kbEach, misses } = await program.hears("kbEach", 120_000);
  assert.equal(misses, 800);
  // Of ioredis' commands about 2.5 kB remain. It was 24, with the text.
  assert.ok(Number(kbEach) < 8, `${String(kbEach)} kB of each value of 32 kB are kept`);
});
