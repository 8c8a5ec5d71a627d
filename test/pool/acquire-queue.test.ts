import assert from "node:assert/strict";
import { test } from "node:test";
import { AcquireQueue } from "../../src/pool/acquire-queue.js";
import { Program } from "../support/program.js";

const waiters = (): AcquireQueue<string> =>
  new AcquireQueue({ ms: 60_000, now: () => 0, onExpiry: () => new Error("not in this test") });

test("who leaves out of turn is not counted and not served; the others keep their order", async () => {
  const line = waiters();
  const leaving = new AbortController();
  const first = line.wait();
  const gone = [line.wait(leaving.signal), line.wait(leaving.signal)];
  const last = line.wait();
  leaving.abort(new Error("no more patience"));
  assert.equal(line.size, 2);
  for (const one of gone) await assert.rejects(one, /no more patience/);
  assert.ok(line.serve("a"));
  assert.ok(line.serve("b"));
  assert.equal(line.serve("nobody's"), false);
  assert.deepEqual([await first, await last, line.size], ["a", "b", 0]);
});

test("an abort between being served and hearing of it changes nothing", async () => {
  const line = waiters();
  const leaving = new AbortController();
  const served = line.wait(leaving.signal);
  const next = line.wait();
  assert.ok(line.serve("a"));
  leaving.abort(new Error("too late"));
  assert.equal(line.size, 1);
  line.dismissAll(new Error("closed"));
  assert.equal(await served, "a");
  await assert.rejects(next, /closed/);
  assert.equal(line.size, 0);
});

test("who has been served does not become long-lived because others always wait", async (t) => {
  const program = new Program(t, "waiting-line", ["8000"]);
  const { grownKb } = await program.hears("grownKb");
  assert.ok(Number(grownKb) < 300, `${String(grownKb)} kB of what 8 000 have left are kept`);
});
