import assert from "node:assert/strict";
import { test } from "node:test";
import { type Decoded, OwnTable } from "../../src/near/own-table.js";
import { seeded } from "../support/seeded.js";

const VALUE_BYTES = 4_096;
/** Room for about a hundred values. */
const MAX_BYTES = 100 * (VALUE_BYTES + 200);

function decoded(version: number): Decoded {
  return { bucket: 0, version, epoch: 0, deadline: 0, value: `version ${version}` };
}

for (const kind of ["text", "object"] as const) {
  const set = kind === "text" ? "setText" : "setObject";

  test(`where more keys are read in turn than there is room for, part of them are hits: ${kind}`, () => {
    const table = new OwnTable(MAX_BYTES, seeded(1));
    let hits = 0;
    const reads = 20 * 200;
    for (let i = 0; i < reads; i++) {
      const key = `key ${i % 200}`;
      if (table[kind](key)?.value !== undefined) hits++;
      else table[set](key, decoded(1), VALUE_BYTES);
    }
    // Half of the keys fit. If each value got in, each would be dropped before its turn comes again.
    assert.ok(hits > 0.3 * reads, `${hits} hits of ${reads} reads`);
  });

  test(`an outdated value is replaced also in a full table: ${kind}`, () => {
    const table = new OwnTable(MAX_BYTES, () => 0.999); // no new key gets in
    for (let i = 0; i < 200; i++) table[set](`key ${i}`, decoded(1), VALUE_BYTES);
    const kept = Array.from({ length: 200 }, (_, i) => `key ${i}`).filter(
      (key) => table[kind](key)?.value !== undefined,
    );
    assert.ok(kept.length > 50 && kept.length < 150, `${kept.length} are kept`);
    for (const key of kept) table[set](key, decoded(2), VALUE_BYTES);
    for (const key of kept) assert.equal(table[kind](key)?.value, "version 2");
  });
}
