/**
 * `npm run test:sessions -- [--steps N] [--seed S]`: compares the state of a session with the reference in
 * support/session-reference.ts. Without a seed each run takes a new one and prints it; CI has fixed seeds.
 */
import { after, before, test } from "node:test";
import { parseArgs } from "node:util";
import * as fc from "fast-check";
import { startRedis, type RedisServer } from "../support/redis-server.js";
import { anyPlan } from "../support/session-random.js";
import { runPlan } from "../support/session-run.js";
import type { Plan } from "../support/session-steps.js";

const { values: args } = parseArgs({ options: { steps: { type: "string" }, seed: { type: "string" } } });
const steps = Number(args.steps ?? 5_000);
const seed = Number(args.seed ?? (args.steps === undefined ? 1 : Math.floor(Math.random() * 2 ** 31)));

const SHRINK_MS = 120_000;

let server: RedisServer;
before(async () => {
  server = await startRedis({ args: ["--hz", "200"] }); // so often the server looks at the timeouts of BLPOP
});
after(() => server.stop());

test("a session's state equals the server's, and every caller gets its own reply", async (t) => {
  let done = 0;
  const property = fc.asyncProperty(anyPlan, async (plan) => {
    await runPlan(server, plan);
    done += stepsOf(plan);
  });
  const parameters = { numRuns: 20, includeErrorInReport: true, interruptAfterTimeLimit: SHRINK_MS };
  for (let i = 0; done < steps; i++) await fc.assert(property, { ...parameters, seed: seed + i });
  t.diagnostic(`seed ${seed}: ${done} commands`);
});

function stepsOf({ groups }: Plan): number {
  return groups.flatMap(({ acts }) => acts.flatMap(({ commands }) => commands)).length;
}
