import assert from "node:assert/strict";
import { Writable } from "node:stream";
import { test, type TestContext } from "node:test";
import { sendThroughOutbox } from "../src/common/outbox.js";

/** A stream that keeps each of the writes which reach it, at a time that stands still unless the test moves it. */
function recording(t: TestContext): {
  stream: Writable;
  writes: string[][];
  flushed: () => number;
  clock: { ms: number };
} {
  const clock = { ms: 0 };
  t.mock.method(performance, "now", () => clock.ms);
  const writes: string[][] = [];
  let flushes = 0;
  const stream = new Writable({
    decodeStrings: false,
    write(chunk: string | Buffer, _encoding, done) {
      writes.push([chunk.toString()]);
      done();
    },
    writev(chunks, done) {
      writes.push(chunks.map(({ chunk }: { chunk: string | Buffer }) => chunk.toString()));
      done();
    },
  });
  sendThroughOutbox(stream, () => flushes++);
  return { stream, writes, flushed: () => flushes, clock };
}

const turnEnds = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test("what a turn writes leaves at its end as one chunk, in its order", async (t) => {
  const { stream, writes, flushed } = recording(t);
  stream.write("one ");
  stream.write("twö ");
  stream.write(Buffer.from("three "));
  stream.write("four");
  assert.deepEqual(writes, []);
  await turnEnds();
  assert.deepEqual(writes, [["one twö three four"]]);
  assert.equal(flushed(), 1);
});

test("a large chunk is not copied, and keeps its place", async (t) => {
  const { stream, writes } = recording(t);
  const large = "x".repeat(100_000);
  stream.write("before ");
  stream.write(Buffer.from(large));
  stream.write(" after");
  await turnEnds();
  assert.deepEqual(writes, [["before ", large, " after"]]);
});

test("what a turn writes after a long computation leaves at once, and the next of it at the end again", async (t) => {
  const { stream, writes, clock } = recording(t);
  stream.emit("data"); // what the computation was about
  stream.write("before ");
  clock.ms += 5;
  stream.write("after");
  assert.deepEqual(writes, [["before after"]]);
  stream.emit("data");
  stream.write("next");
  assert.equal(writes.length, 1);
  await turnEnds();
  assert.deepEqual(writes[1], ["next"]);
});

test("however long ago something came in, what a later turn writes leaves at its end", async (t) => {
  const { stream, writes, clock } = recording(t);
  stream.emit("data");
  await turnEnds();
  clock.ms += 500;
  stream.write("one ");
  clock.ms += 500;
  stream.write("two");
  assert.deepEqual(writes, []);
  await turnEnds();
  assert.deepEqual(writes, [["one two"]]);
});

test("of a stream that was destroyed in the same turn nothing leaves, and nobody is told that it has", async (t) => {
  const { stream, writes, flushed } = recording(t);
  stream.write("never");
  stream.destroy();
  await turnEnds();
  assert.deepEqual(writes, []);
  assert.equal(flushed(), 0);
});
