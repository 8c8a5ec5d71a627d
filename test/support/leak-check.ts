import assert from "node:assert/strict";
import type { RedisServer } from "./redis-server.js";

const rejections: unknown[] = [];
let listening = false;

/**
 * After the test: CLIENT LIST holds only the observer, and no promise was rejected unheard since the last check.
 * After-hooks run in the order they were registered: call this before registering the one that stops the server.
 */
export function leakCheck(t: { after(hook: () => Promise<void>): void }, server: RedisServer): void {
  listen();
  t.after(async () => {
    await server.waitForClients((clients) => clients.length === 0, 5_000, "nobody but the observer is connected");
    // Rejections are reported once the microtasks are through.
    await new Promise((resolve) => setImmediate(resolve));
    assert.deepEqual(rejections.splice(0), [], "no promise was rejected unheard");
  });
}

function listen(): void {
  if (listening) return;
  listening = true;
  process.on("unhandledRejection", (reason) => rejections.push(reason));
}
