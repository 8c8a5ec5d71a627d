import assert from "node:assert/strict";
import { Writable } from "node:stream";
import { test } from "node:test";
import { sendThroughOutbox } from "../src/common/outbox.js";

/** A stream that keeps each of the writes which reach it. */
function recording(): { stream: Writable; writes: string[][]; flushed: () => number } {
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
  return { stream, writes, flushed: () => flushes };
}

const turnEnds = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test("what a turn writes leaves at its end as one chunk, in its order", async () => {
  const { stream, writes, flushed } = recording();
  stream.write("one ");
  stream.write("twö ");
  stream.write(Buffer.from("three "));
  stream.write("four");
  assert.deepEqual(writes, []);
  await turnEnds();
  assert.deepEqual(writes, [["one twö three four"]]);
  assert.equal(flushed(), 1);
});

test("a large chunk is not copied, and keeps its place", async () => {
  const { stream, writes } = recording();
  const large = "x".repeat(100_000);
  stream.write("before ");
  stream.write(Buffer.from(large));
  stream.write(" after");
  await turnEnds();
  assert.deepEqual(writes, [["before ", large, " after"]]);
});

test("of a stream that was destroyed in the same turn nothing leaves, and nobody is told that it has", async () => {
  const { stream, writes, flushed } = recording();
  stream.write("never");
  stream.destroy();
  await turnEnds();
  assert.deepEqual(writes, []);
  assert.equal(flushed(), 0);
});
