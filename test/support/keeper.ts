import { Session } from "node:inspector";
import type { TestContext } from "node:test";
import type { Worker } from "node:worker_threads";

/** The threads that were started since, of whatever kind. */
export function newWorkers(t: TestContext): Worker[] {
  const workers: Worker[] = [];
  const started = (worker: Worker): void => void workers.push(worker);
  process.on("worker", started);
  t.after(() => void process.off("worker", started));
  return workers;
}

/** For each shared buffer that this thread has made since, the stack. */
export function sharedBuffers(t: TestContext): string[] {
  const stacks: string[] = [];
  const Original = SharedArrayBuffer;
  globalThis.SharedArrayBuffer = new Proxy(Original, {
    construct(target, given, made) {
      stacks.push(String(new Error("made").stack));
      return Reflect.construct(target, given, made) as SharedArrayBuffer;
    },
  });
  t.after(() => void (globalThis.SharedArrayBuffer = Original));
  return stacks;
}

/** Blocks the keeper's thread for `ms` in `Atomics.wait`. Resolves when it is blocked. */
export function blockKeeper(t: Pick<TestContext, "after">, ms: number): Promise<void> {
  return inKeeper(t, `Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ${ms})`);
}

/** Evaluates an expression in the keeper's thread, by the inspector. */
async function inKeeper(t: Pick<TestContext, "after">, expression: string): Promise<void> {
  const session = new Session();
  session.connect();
  t.after(() => session.disconnect());
  const found = new Promise<string>((resolve) => {
    session.on("NodeWorker.attachedToWorker", ({ params }) => {
      if (params.workerInfo.url.includes("keeper-entry")) resolve(params.sessionId);
    });
  });
  const post = (method: string, params: object): Promise<unknown> =>
    new Promise((resolve, reject) => {
      session.post(method, params, (error, result) => (error ? reject(error) : resolve(result)));
    });
  await post("NodeWorker.enable", { waitForDebuggerOnStart: false });
  const sessionId = await found;
  const message = { id: 1, method: "Runtime.evaluate", params: { expression } };
  await post("NodeWorker.sendMessageToWorker", { sessionId, message: JSON.stringify(message) });
}
