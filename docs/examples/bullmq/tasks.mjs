import { createHash } from "node:crypto";
import { setImmediate as turn } from "node:timers/promises";
import { log, updateProgress } from "redthread/bullmq/worker";
import { getRedis } from "redthread/worker";

/** Each job of this name runs here, in a thread, with its data as `input`. */
export async function digest({ text, rounds }, context) {
  const redis = await getRedis();
  let hash = text;
  for (let percent = 0; percent < 100; percent += 10) {
    await turn(); // while a thread computes it gets no messages
    context.signal.throwIfAborted(); // worker.cancelJob(id), a lost lock, the shutdown
    for (let i = 0; i < rounds / 10; i++) hash = createHash("sha256").update(hash).digest("hex");
    updateProgress(context, percent + 10);
  }
  // After a crash a job can come twice, so its effect should be the same then.
  await redis.hset("digests", text, hash);
  log(context, `digest of ${text} stored`);
  return hash;
}
