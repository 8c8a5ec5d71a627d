import { createHook } from "node:async_hooks";
import { isObserver } from "./redis-server.js";

interface Made {
  readonly type: string;
  /** The native handle, or the timer. */
  readonly resource: object;
  /** The text of its stack is made only on demand. */
  readonly by: { readonly stack?: string };
}

/**
 * What the library can leave open on this thread. A socket under TLS is a TCPWRAP too; requests end with their sockets.
 */
const SOCKETS: ReadonlySet<string> = new Set(["TCPWRAP", "PIPEWRAP"]);
const WATCHED: ReadonlySet<string> = new Set([...SOCKETS, "Timeout", "Immediate", "WORKER", "MESSAGEPORT"]);
/**
 * Enough frames for a socket that ioredis opens, or a timer that starts in waiting.ts: the library's own frame is among
 * these.
 */
const FRAMES = 14;
const OURS = /\/dist\/src\/|\/node_modules\/(?:piscina|generic-pool)\//;
/** Handles of the tests: proxies, programs, other clients. When they call the library, its frames are above theirs. */
const TESTS = /\/dist\/test\//;

const alive = new Map<number, Made>();
let newest = 0;

// Node makes them at their first use, which can be the start of a thread: then they would look like the library's.
void [process.stdout, process.stderr];
// Node lists neither timers nor ports that are unref'd, so each is noted when it is made.
createHook({ init: born, destroy: (id) => alive.delete(id) }).enable();

function born(id: number, type: string, _trigger: number, resource: object): void {
  if (!WATCHED.has(type)) return;
  const by = {};
  const { stackTraceLimit } = Error;
  Error.stackTraceLimit = FRAMES;
  Error.captureStackTrace(by, born);
  Error.stackTraceLimit = stackTraceLimit;
  newest = Math.max(newest, id);
  alive.set(id, { type, resource, by });
}

/** For `openHandles`: later handles only. */
export function newestHandle(): number {
  return newest;
}

/**
 * The library's handles and timers that are open on this thread, ref'd or not: a line for each, with the place where it
 * was made.
 */
export function openHandles(since = 0): string[] {
  const made = [...alive].filter(([id, handle]) => id > since && isOurs(handle));
  return made.map(([, { type, by }]) => `${type} made ${birthplace(by.stack)}`);
}

function isOurs({ type, resource, by: { stack = "" } }: Made): boolean {
  if (OURS.test(stack)) return true;
  if (TESTS.test(stack)) return false;
  // A thread's link arrives in a message, and ioredis connects in its own tick: no frame of the library is on their
  // stacks.
  if (type === "MESSAGEPORT") return true;
  return stack.includes("/ioredis/") && SOCKETS.has(type) && !isObserver(resource);
}

function birthplace(stack = ""): string {
  const frames = stack.split("\n").slice(1);
  // The frame that waits, not the function in which all waits start their timers.
  const own = frames.filter((line) => line.includes("/dist/src/"));
  const frame = own.find((line) => !line.includes("/time.js")) ?? own[0] ?? frames.find((line) => OURS.test(line));
  return (frame ?? frames.find((line) => line.includes("/node_modules/")) ?? "in a message or by Node").trim();
}
