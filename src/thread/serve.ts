// thread is what runs in each worker thread of a manager; redthread/worker (src/worker.ts) is its face to tasks.
// It may import clients and everything below it, and never main or helper. To read on: runtime.ts receives the manager's
// messages; concurrency-limiter.ts begins tasks, task.ts runs one, results.ts sends what it returned; clients.ts has the
// thread's connections; sync/ blocks the thread in calls that its helper carries out.
import { MessageChannel, parentPort, workerData } from "node:worker_threads";
import type { Hello, Serve, ThreadData } from "../link/protocol.js";
import { Runtime } from "./runtime.js";

/** A thread's whole life as one piscina task: it sends hello, serves its link, and resolves when it has been closed. */
export async function serve({ serve: token, row }: Serve): Promise<void> {
  const { port1, port2 } = new MessageChannel();
  const runtime = new Runtime(port1, (workerData as ThreadData).redthread, row);
  const hello: Hello = { hello: token, port: port2 };
  parentPort!.postMessage(hello, [port2]);
  await runtime.start();
  await runtime.closed;
}
