import { Queue, QueueEvents, Worker } from "bullmq";
import { byCallers, type Contender, type ContenderOptions } from "../contender.js";

/** A durable queue, which keeps every job in Redis; some services use it for calls. */
export async function bullmq({ port, threads }: ContenderOptions): Promise<Contender> {
  const connection = { port, host: "127.0.0.1" };
  const queue = new Queue("bench", { connection });
  // One listener per waiting job and two pipes per thread: Node's limit of ten would warn of a leak.
  queue.setMaxListeners(0);
  for (const stream of [process.stdout, process.stderr]) stream.setMaxListeners(0);
  const events = new QueueEvents("bench", { connection });
  const worker = new Worker("bench", new URL("./sandbox.js", import.meta.url), {
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
