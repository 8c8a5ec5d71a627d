/**
 * `npm run test:model -- [--cases N] [--seed S]`: values that cross threads, against the reference in
 * support/value-reference.ts. Without a seed each run of the command has its own and prints it; CI has a fixed one.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { after, before, test } from "node:test";
import { parseArgs } from "node:util";
import { Worker } from "node:worker_threads";
import * as fc from "fast-check";
import type * as Tasks from "../fixtures/value-tasks.js";
import { describe } from "../support/describe-value.js";
import { fixture, manage } from "../support/manage.js";
import { heap } from "../support/random-values.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";
import { ValueBatch } from "../support/value-batch.js";
import { build } from "../support/value-recipes.js";

const { values: args } = parseArgs({ options: { cases: { type: "string" }, seed: { type: "string" } } });
const cases = Number(args.cases ?? 1_000);
const seed = Number(args.seed ?? (args.cases === undefined ? 1 : Math.floor(Math.random() * 2 ** 31)));

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
after(() => server.stop());

test("two tasks never share a value, and each value arrives as the reference says", async (t) => {
  const manager = manage<typeof Tasks>(t, server, { tasks: fixture("value-tasks"), threads: { count: 2 } });
  await manager.ready();
  let values = 0;
  let failure: unknown;
  const run = async (batch: ValueBatch): Promise<void> => {
    // After a hang every smaller case would hang as well, each until its deadline.
    if (/not within/.test(String(failure))) return;
    values += batch.size;
    await batch.run(manager).catch((error: unknown) => {
      failure = error;
      throw error;
    });
  };
  await fc.assert(fc.asyncProperty(ValueBatch.any, run), { seed, numRuns: cases, includeErrorInReport: true });
  t.diagnostic(`seed ${seed}: ${cases} batches, ${values} values`);
});

test("what structuredClone gives is what a thread without a manager gets, and gives back", async (t) => {
  const worker = new Worker(fixture("value-echo"));
  t.after(() => worker.terminate().then(() => undefined));
  const ask = async (value: unknown): Promise<{ description: string; value: unknown }> => {
    const answer = once(worker, "message");
    worker.postMessage(value);
    return ((await answer) as [{ description: string; value: unknown }])[0];
  };
  const check = async (value: unknown): Promise<void> => {
    let clone: unknown;
    try {
      clone = structuredClone(value);
    } catch {
      assert.throws(() => worker.postMessage(value));
      return;
    }
    const answer = await ask(value);
    assert.equal(answer.description, describe(clone));
    assert.equal(describe(answer.value), describe(structuredClone(clone)));
  };
  const property = fc.asyncProperty(heap, async (recipes) => check(build(recipes)[0]));
  await fc.assert(property, { seed, numRuns: 200, includeErrorInReport: true });
});
