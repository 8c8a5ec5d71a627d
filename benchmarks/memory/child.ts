/** One contender alone in a process; says what it takes once everything is up, and ends. */
import { Worker } from "node:worker_threads";
import { fileURLToPath } from "node:url";
import { ConnectionManager } from "redthread";
import { silent } from "../../test/support/silent.js";
import type * as Tasks from "../contenders/whoami-tasks.js";
import { BY_HAND, REDTHREAD, type Running } from "../contenders/lifecycle.js";

export interface MemoryInput {
  readonly port: number;
  readonly contender: "redthread" | "by hand";
  readonly threads: number;
  /** Beside the threads' clients, in one thread. */
  readonly connections: number;
}

const { port, contender, threads, connections } = JSON.parse(process.argv[2]!) as MemoryInput;

async function start(): Promise<Running> {
  if (connections === 0) return (contender === "redthread" ? REDTHREAD : BY_HAND).start({ port, threads });
  return contender === "redthread" ? hold() : open();
}

async function hold(): Promise<Running> {
  const manager = new ConnectionManager<typeof Tasks>({
    tasks: new URL("../contenders/whoami-tasks.js", import.meta.url),
    env: {},
    logger: silent,
    redis: { port },
    threads: { count: 1 },
    dedicated: { max: connections },
  });
  await manager.run("hold", connections);
  return { stop: () => manager.shutdown() };
}

async function open(): Promise<Running> {
  const file = fileURLToPath(new URL("../contenders/many-clients.js", import.meta.url));
  const worker = new Worker(file, { workerData: { port, clients: connections } });
  await new Promise((resolve, reject) => worker.once("message", resolve).once("error", reject));
  return { stop: () => worker.terminate() };
}

const running = await start();
// What the start left behind goes; the same for all.
for (let i = 0; i < 5; i++) {
  globalThis.gc?.();
  await new Promise((resolve) => setTimeout(resolve, 100));
}
process.stdout.write(`${process.memoryUsage().rss}\n`);
await running.stop();
