import { pathToFileURL } from "node:url";
import { Queue, QueueEvents, Worker } from "bullmq";
import type { ByHandOptions } from "./by-hand.js";
import { byCallers, type Contender } from "./contender.js";

const FILE = new URL("./bullmq-sandbox.js", import.meta.url);

/** A durable queue rather than a call: it keeps every job in Redis. Here for those who use it as one. */
export async function bullmq({ port, threads }: ByHandOptions): Promise<Contender> {
  const connection = { port, host: "127.0.0.1" };
  const queue = new Queue("bench", { connection });
  // A listener per waiting job, and two pipes per thread: more than Node's ten, and no leak.
  queue.setMaxListeners(0);
  for (const stream of [process.stdout, process.stderr]) stream.setMaxListeners(0);
  const events = new QueueEvents("bench", { connection });
  const worker = new Worker("bench", pathToFileURL(FILE.pathname), {
    connection,
    concurrency: threads, // a sandboxed job has its thread to itself
    useWorkerThreads: true,
  });
  await Promise.all([events.waitUntilReady(), worker.waitUntilReady()]);
  return {
    drive: byCallers(async (item) => {
      const job = await queue.add("item", { ...item, port }, { removeOnComplete: true });
      await job.waitUntilFinished(events);
    }),
    close: async () => {
      await worker.close();
      await Promise.all([events.close(), queue.close()]);
    },
  };
}
