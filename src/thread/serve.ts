import { MessageChannel, parentPort, workerData } from "node:worker_threads";
import type { Hello, Serve, ThreadData } from "../link/protocol.js";
import { Runtime } from "./runtime.js";

/** A thread's whole life as one piscina task: says hello, serves its link, and settles when it has been closed. */
export async function serve({ serve: token, row }: Serve): Promise<void> {
  const { port1, port2 } = new MessageChannel();
  const runtime = new Runtime(port1, (workerData as ThreadData).redthread, row);
  const hello: Hello = { hello: token, port: port2 };
  parentPort!.postMessage(hello, [port2]);
  await runtime.start();
  await runtime.closed;
}
