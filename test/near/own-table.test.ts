import assert from "node:assert/strict";
import { test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { type Decoded, OwnTable } from "../../src/near/own-table.js";
import { seeded } from "../support/seeded.js";

const ENTRY_BYTES = 160;
const decoded = (value: unknown): Decoded => ({ bucket: 1, version: 2, epoch: 3, deadline: 4, value });
const isThere = (table: OwnTable, key: string): boolean => table.text(key)?.value !== undefined;

test("what is put into the table is found with all that has to be current for it", () => {
  const table = new OwnTable(10_000);
  table.setText("a", decoded("text"), 4);
  table.setObject("a", decoded({ parsed: true }), 8);
  table.setText("nil", decoded(null), 0);
  const { bytes: _, ...text } = table.text("a")!;
  assert.deepEqual(text, decoded("text"));
  assert.deepEqual(table.object("a")!.value, { parsed: true });
  assert.equal(table.text("nil")!.value, null);
  assert.equal(table.object("nil"), undefined);
  table.setText("a", decoded("newer"), 5);
  assert.equal(table.text("a")!.value, "newer");
  table.clear();
  assert.equal(table.text("a"), undefined);
});

test("texts and objects together take no more than the table may have, and the oldest goes first", () => {
  const table = new OwnTable(10 * (ENTRY_BYTES + 2 + 38), () => 0);
  for (let i = 10; i < 30; i++) {
    if (i % 2) table.setText(`${i}`, decoded(`${i}`), 38);
    else table.setObject(`${i}`, decoded({ i }), 38);
    const kept = Array.from({ length: 20 }, (_, j) => `${j + 10}`).filter(
      (key) => isThere(table, key) || table.object(key)?.value !== undefined,
    );
    assert.deepEqual(
      kept,
      Array.from({ length: Math.min(i - 9, 10) }, (_, j) => `${Math.max(10, i - 9) + j}`),
    );
  }
});

test("a value that grows in its place is counted anew, and one that is larger than the table is not kept", () => {
  const table = new OwnTable(3 * (ENTRY_BYTES + 1) + 300, () => 0);
  for (const key of ["a", "b", "c"]) table.setText(key, decoded(key), 100);
  for (let i = 0; i < 10; i++) table.setText("c", decoded(`${i}`), 100);
  assert.deepEqual(
    ["a", "b", "c"].map((key) => isThere(table, key)),
    [true, true, true],
  );
  table.setText("c", decoded("larger"), 101);
  assert.deepEqual(
    ["a", "b", "c"].map((key) => isThere(table, key)),
    [false, true, true],
  );
  table.setText("d", decoded("much larger"), 100_000);
  assert.deepEqual(
    ["b", "c", "d"].map((key) => isThere(table, key)),
    [true, true, false],
  );
});

test("an entry that was dropped comes back as the newest", () => {
  const table = new OwnTable(2 * (ENTRY_BYTES + 1 + 100), () => 0);
  for (const key of ["a", "b", "c", "a"]) table.setText(key, decoded(key), 100);
  assert.deepEqual(
    ["a", "b", "c"].map((key) => isThere(table, key)),
    [true, false, true],
  );
  table.setText("d", decoded("d"), 100);
  assert.deepEqual(
    ["a", "c", "d"].map((key) => isThere(table, key)),
    [true, false, true],
  );
});

test("a table without room keeps nothing", () => {
  const table = new OwnTable(0);
  table.setText("a", decoded("a"), 1);
  table.setObject("a", decoded({}), 1);
  assert.deepEqual([table.text("a"), table.object("a")], [undefined, undefined]);
});

test("what is read often is in the table although much more is read than there is room for", () => {
  const room = 500;
  const random = seeded(7);
  const table = new OwnTable(room * (ENTRY_BYTES + 100), random);
  let hot = 0;
  let hits = 0;
  let puts = 0;
  for (let i = 0; i < 200_000; i++) {
    const isHot = random() < 0.5;
    const key = isHot ? `hot:${Math.floor(random() * 50)}` : `cold:${Math.floor(random() * 100_000)}`;
    const isHit = isThere(table, key);
    if (isHot && i > 10_000) [hot, hits] = [hot + 1, hits + Number(isHit)];
    if (isHit) continue;
    table.setText(key, decoded(key), 90);
    puts += Number(isThere(table, key));
  }
  assert.ok(hits / hot > 0.85, `${hits} of ${hot} reads of hot keys are hits`);
  assert.ok(puts < 40_000, `${puts} texts were put into the full table`);
});

test("memory stays as it is while keys come and go", () => {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  const table = new OwnTable(1 << 20, () => 0);
  const churn = (from: number, to: number): void => {
    for (let i = from; i < to; i++) table.setText(`key:${i}`, decoded(`${i}`.repeat(20)), 140);
  };
  const heap = (): number => {
    collect();
    return process.memoryUsage().heapUsed;
  };
  churn(0, 50_000);
  const before = heap();
  churn(50_000, 1_000_000);
  const grown = heap() - before;
  assert.ok(grown < 1 << 20, `${grown} bytes more after 950 000 keys`);
  assert.ok(isThere(table, "key:999999"));
});

const VALUE_BYTES = 4_096;
/** Room for about a hundred values. */
const MAX_BYTES = 100 * (VALUE_BYTES + 200);

const versionOf = (version: number): Decoded => ({ ...decoded(`version ${version}`), version });

for (const kind of ["text", "object"] as const) {
  const set = kind === "text" ? "setText" : "setObject";

  test(`where more keys are read in turn than there is room for, part of them are hits: ${kind}`, () => {
    const table = new OwnTable(MAX_BYTES, seeded(1));
    let hits = 0;
    const reads = 20 * 200;
    for (let i = 0; i < reads; i++) {
      const key = `key ${i % 200}`;
      if (table[kind](key)?.value !== undefined) hits++;
      else table[set](key, versionOf(1), VALUE_BYTES);
    }
    // Half of the keys fit. If each value got in, each would be dropped before its turn comes again.
    assert.ok(hits > 0.3 * reads, `${hits} hits of ${reads} reads`);
  });

  test(`an outdated value is replaced also in a full table: ${kind}`, () => {
    const table = new OwnTable(MAX_BYTES, () => 0.999); // no new key gets in
    for (let i = 0; i < 200; i++) table[set](`key ${i}`, versionOf(1), VALUE_BYTES);
    const kept = Array.from({ length: 200 }, (_, i) => `key ${i}`).filter(
      (key) => table[kind](key)?.value !== undefined,
    );
    assert.ok(kept.length > 50 && kept.length < 150, `${kept.length} are kept`);
    for (const key of kept) table[set](key, versionOf(2), VALUE_BYTES);
    for (const key of kept) assert.equal(table[kind](key)?.value, "version 2");
  });
}
