import assert from "node:assert/strict";
import { test } from "node:test";
import { runNear } from "../support/near-run.js";

// `npm run test:near` does the same for longer, and with other seeds.
const SECONDS = 14;

for (const maxStaleMs of [60, 250])
  test(`whatever happens, no value is read later than ${maxStaleMs} ms after it was replaced, and none is torn or of another key`, async () => {
    const { counts, problems } = await runNear({ seed: 29, seconds: SECONDS, maxStaleMs });
    assert.deepEqual(problems, []);
    assert.equal(counts["bad"], 0);
    // On a busy machine the keeper and its threads take long to come back. It is thousands a second otherwise.
    assert.ok(counts["hits"]! > 100, `too few came from memory: ${JSON.stringify(counts)}`);
  });
