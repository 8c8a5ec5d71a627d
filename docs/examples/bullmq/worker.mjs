// Runs the jobs of a BullMQ queue in threads: `REDIS_URL=redis://… node worker.mjs`, on as many machines as you like
import { ConnectionManager } from "redthread";
import { createWorker } from "redthread/bullmq";

const manager = new ConnectionManager({ tasks: new URL("./tasks.mjs", import.meta.url) });
const jobs = await createWorker(manager, "digests", {
  connection: { url: process.env["REDIS_URL"] ?? "redis://127.0.0.1:6379" },
  run: { timeoutMs: 60_000 },
});
jobs.worker.on("failed", (job, { message }) => console.error(JSON.stringify({ failed: job?.id, message })));
jobs.worker.on("error", ({ message }) => console.error(JSON.stringify({ error: message })));
console.log(JSON.stringify({ ready: jobs.worker.name }));

for (const signal of ["SIGTERM", "SIGINT"]) process.once(signal, () => void stop(signal));

async function stop(reason) {
  await jobs.close({ drainMs: 20_000 }); // no new jobs; running jobs end; BullMQ's connections are closed
  await manager.shutdown({ reason }); // then the threads and their Redis
  console.log(JSON.stringify({ stopped: reason }));
}
