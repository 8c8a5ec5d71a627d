import assert from "node:assert/strict";
import { eventually } from "./gate.js";
import { newestHandle, openHandles } from "./open-handles.js";
import type { RedisServer } from "./redis-server.js";

interface Test {
  after(hook: () => Promise<void>): void;
}

const rejections: unknown[] = [];
let listening = false;

interface Checks {
  /** The hooks of another check may still have to close the owner of a handle. */
  left: number;
  readonly since: number;
  /** A failing hook ends the other hooks: this one does their work. */
  onFailure: () => Promise<void>;
}
const checks = new WeakMap<Test, Checks>();

/**
 * Checks after the test: CLIENT LIST holds only the observer, and no promise was rejected without a handler since the
 * last check. After the test's last check, nothing may be open that the library opened on this thread since the first
 * one began. After-hooks run in the order of registration: call this before the hook that stops the server is
 * registered.
 */
export function leakCheck(t: Test, server: RedisServer): void {
  listen();
  const ofTest = beginLeakCheck(t);
  ofTest.left++;
  const check = async (): Promise<void> => {
    ofTest.left--;
    if (!server.isRunning) {
      await server.stop(); // its observer reconnects until then
      throw new Error("the test has killed its server and not started it again");
    }
    await server.waitForClients((clients) => clients.length === 0, 5_000, "nobody but the observer is connected");
    // Rejections are reported after the microtasks.
    await new Promise((resolve) => setImmediate(resolve));
    assert.deepEqual(rejections.splice(0), [], "no promise was rejected unheard");
    if (ofTest.left === 0) await nothingIsOpen(ofTest.since);
  };
  t.after(async () => {
    try {
      await check();
    } catch (error) {
      await ofTest.onFailure();
      throw error;
    }
  });
}

/** For tests that must open something before their `leakCheck`, because their own hook has to come first. */
export function beginLeakCheck(t: Test): Checks {
  const ofTest = checks.get(t) ?? { left: 0, since: newestHandle(), onFailure: async () => {} };
  checks.set(t, ofTest);
  return ofTest;
}

/** Closing takes a turn or two, and Node reports it even later. */
export async function nothingIsOpen(since: number, deadlineMs = 5_000): Promise<void> {
  const look = (): void => {
    const left = openHandles(since);
    if (left.length > 0) throw new Error([`${left.length} are left:`, ...left].join("\n  "));
  };
  await eventually(look, deadlineMs, "no handle or timer of the library is left");
}

function listen(): void {
  if (listening) return;
  listening = true;
  process.on("unhandledRejection", (reason) => rejections.push(reason));
}
