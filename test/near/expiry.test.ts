import assert from "node:assert/strict";
import { after, test } from "node:test";
import { eventually } from "../support/gate.js";
import { fixture, manage } from "../support/manage.js";
import { startRedis } from "../support/redis-server.js";

const KEY = "near:short";
const LIFE_MS = 2_000;

const server = await startRedis({ args: ["--enable-debug-command", "local"] });
after(() => server.stop());

test("a value ends with its time to live, also if the server does not notice and tell", async (t) => {
  await server.admin.call("DEBUG", "SET-ACTIVE-EXPIRE", "0");
  const manager = manage(t, server, { tasks: fixture("near-tasks"), nearCache: { prefixes: ["near:"] } });
  await manager.ready();
  await eventually(async () => (await manager.near.get("near:other"), manager.near.peek("near:other") === null));
  await server.admin.set(KEY, "short", "PX", LIFE_MS);
  const endsAt = performance.now() + LIFE_MS; // or a little before
  await eventually(async () => (await manager.near.get(KEY), manager.near.peek(KEY) === "short"), LIFE_MS);
  while (performance.now() < endsAt) await new Promise((resolve) => setTimeout(resolve, 10));
  assert.equal(manager.near.peek(KEY), undefined);
  assert.equal(await manager.near.get(KEY), null);
});
