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
  /** A handle may belong to what another check's hooks are still to close. */
  left: number;
  readonly since: number;
  /** A hook that fails ends the hooks: does what those after it would have done. */
  onFailure: () => Promise<void>;
}
const checks = new WeakMap<Test, Checks>();

/**
 * After the test: CLIENT LIST holds only the observer, no promise was rejected unheard since the last check, and once
 * the test's last check is through, nothing is left that the library opened on this thread since the first one began.
 * After-hooks run in the order they were registered: call this before registering the one that stops the server.
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
    // Rejections are reported once the microtasks are through.
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

/** For who opens something before its `leakCheck`, because its own hook has to come first. */
export function beginLeakCheck(t: Test): Checks {
  const ofTest = checks.get(t) ?? { left: 0, since: newestHandle(), onFailure: async () => {} };
  checks.set(t, ofTest);
  return ofTest;
}

/** Closing takes a turn or two, and Node tells of it later still. */
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
