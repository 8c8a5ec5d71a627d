import assert from "node:assert/strict";
import { test } from "node:test";
import { Worker } from "node:worker_threads";
import * as fc from "fast-check";
import { Ledger, LEDGER_FIELDS, LedgerRow, LedgerTotals } from "../../src/link/ledger.js";
import { eventually } from "../support/gate.js";

test("each field of each row is a number of its own", () => {
  const ledger = new Ledger(2);
  const rows = Array.from({ length: 4 }, () => ledger.row(ledger.take()));
  rows.forEach((row, r) => LEDGER_FIELDS.forEach((field, f) => row.set(field, 100 * r + f)));
  rows.forEach((row, r) => LEDGER_FIELDS.forEach((field, f) => assert.equal(row.get(field), 100 * r + f)));
});

test("there are two rows for each thread, and to take another one is a bug", () => {
  const ledger = new Ledger(1);
  ledger.take();
  const second = ledger.take();
  assert.throws(() => ledger.take(), /no free row/);
  ledger.free(second);
  assert.equal(ledger.take(), second);
});

test("a row is empty for its next thread", () => {
  const ledger = new Ledger(1);
  const first = ledger.take();
  ledger.row(first).add("acquires", 5);
  ledger.free(first);
  ledger.take(); // rows are taken in turn, so that a late write of an ended thread hits no new thread soon
  assert.equal(ledger.take(), first);
  assert.equal(ledger.row(first).get("acquires"), 0);
});

test("a thread's numbers can be read while the thread is blocked", async (t) => {
  const ledger = new Ledger(1);
  const row = ledger.take();
  const url = new URL("../../src/link/ledger.js", import.meta.url).href;
  const code = `
    const { workerData: { url, buffer, row } } = require("node:worker_threads");
    import(url).then(({ LedgerRow }) => { new LedgerRow(buffer, row).add("acquires", 7); for (;;); });
  `;
  const worker = new Worker(code, { eval: true, workerData: { url, buffer: ledger.buffer, row } });
  t.after(() => worker.terminate().then(() => undefined));
  await eventually(() => new LedgerRow(ledger.buffer, row).get("acquires") === 7);
});

test("a message is claimed once and in order, and a row's next thread starts anew", () => {
  const ledger = new Ledger(1);
  const row = ledger.take();
  const [thread, manager] = [ledger.row(row), ledger.row(row)];
  assert.equal(thread.claim(0), true);
  assert.equal(manager.claim(0), false);
  assert.equal(manager.claim(2), false, "not before its turn");
  assert.equal(manager.claim(1), true);
  assert.equal(thread.claim(1), false);
  assert.equal(thread.claimed, 2);
  ledger.free(row);
  ledger.take();
  assert.equal(ledger.take(), row);
  assert.equal(ledger.row(row).claimed, 0);
});

test("the totals are the sum of all rows, also of ended threads", () => {
  const THREADS = 3;
  const step = fc.oneof(
    fc.record({ kind: fc.constant("count" as const), row: fc.nat(THREADS - 1), by: fc.nat(1_000) }),
    fc.record({ kind: fc.constant("death" as const), row: fc.nat(THREADS - 1) }),
  );
  fc.assert(
    fc.property(fc.array(step), (steps) => {
      const ledger = new Ledger(THREADS);
      const totals = new LedgerTotals();
      const rows = Array.from({ length: THREADS }, () => ledger.row(ledger.take()));
      let counted = 0;
      for (const one of steps) {
        if (one.kind === "count") {
          rows[one.row]!.add("acquires", one.by);
          counted += one.by;
        } else {
          totals.retire(rows[one.row]!);
          ledger.free(rows[one.row]!.index);
          rows[one.row] = ledger.row(ledger.take());
        }
        assert.equal(totals.of("acquires", rows), counted);
      }
    }),
  );
});
