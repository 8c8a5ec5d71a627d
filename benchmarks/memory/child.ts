/** One contender alone in a process: prints its memory when everything is up, and ends. */
import { Worker } from "node:worker_threads";
import { fileURLToPath } from "node:url";
import { BY_HAND, REDTHREAD, type Running } from "../contenders/lifecycle.js";
import { openManager } from "../contenders/redthread/redthread.js";
import type * as Tasks from "../contenders/redthread/tasks.js";

export interface MemoryInput {
  readonly port: number;
  readonly contender: "redthread" | "by hand";
  readonly threads: number;
  /** In one thread, beside the threads' clients. */
  readonly connections: number;
}

const { port, contender, threads, connections } = JSON.parse(process.argv[2]!) as MemoryInput;

async function start(): Promise<Running> {
  if (connections === 0) return (contender === "redthread" ? REDTHREAD : BY_HAND).start({ port, threads });
  return contender === "redthread" ? hold() : open();
}

async function hold(): Promise<Running> {
  const options = { redis: { port }, threads: { count: 1 }, dedicated: { max: connections } };
  const manager = openManager<typeof Tasks>(options);
  await manager.run("hold", connections);
  return { stop: () => manager.shutdown() };
}

async function open(): Promise<Running> {
  const file = fileURLToPath(new URL("../contenders/by-hand/many-clients.js", import.meta.url));
  const worker = new Worker(file, { workerData: { port, clients: connections } });
  await new Promise((resolve, reject) => worker.once("message", resolve).once("error", reject));
  return { stop: () => worker.terminate() };
}

const running = await start();
// The garbage of the start is not what is measured.
for (let i = 0; i < 5; i++) {
  globalThis.gc?.();
  await new Promise((resolve) => setTimeout(resolve, 100));
}
process.stdout.write(`${process.memoryUsage().rss}\n`);
await running.stop();
