// Adds jobs and waits for them: `REDIS_URL=redis://… node enqueue.mjs some words`
import { Queue, QueueEvents } from "bullmq";

const connection = { url: process.env["REDIS_URL"] ?? "redis://127.0.0.1:6379" };
const queue = new Queue("digests", { connection });
const events = new QueueEvents("digests", { connection });
await events.waitUntilReady();

const options = { attempts: 3, backoff: { type: "exponential", delay: 1_000 }, removeOnComplete: 1_000 };
const words = process.argv.slice(2);
const jobs = await queue.addBulk(
  words.map((text) => ({ name: "digest", data: { text, rounds: 1_000 }, opts: options })),
);
for (const job of jobs) {
  console.log(JSON.stringify({ word: job.data.text, digest: await job.waitUntilFinished(events) }));
}
await Promise.all([events.close(), queue.close()]);
