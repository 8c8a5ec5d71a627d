import assert from "node:assert/strict";
import { Writable } from "node:stream";
import { test, type TestContext } from "node:test";
import { coalesceWrites } from "../../src/commands/write-coalescer.js";

/** A stream that records the writes that reach it, and a clock that only the test moves. */
function recording(t: TestContext): {
  stream: Writable;
  writes: string[][];
  flushed: () => number;
  flush: () => void;
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
  const coalescer = coalesceWrites(stream, () => ++flushes > 0);
  return { stream, writes, flushed: () => flushes, flush: () => coalescer.flush(), clock };
}

const turnEnds = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test("the writes of a turn leave at its end as one chunk, in their order", async (t) => {
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

test("flushed writes leave at once, and later writes of the turn at its end", async (t) => {
  const { stream, writes, flushed, flush } = recording(t);
  flush();
  stream.write("one ");
  stream.write("two");
  flush();
  assert.deepEqual(writes, [["one two"]]);
  stream.write("three");
  assert.equal(flushed(), 1);
  await turnEnds();
  assert.deepEqual(writes, [["one two"], ["three"]]);
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

test("after a turn that computed each command leaves at once; after a turn that did not, commands leave together again", async (t) => {
  const { stream, writes, clock } = recording(t);
  const turn = async (computesMs: number, commands = ["one ", "two"]): Promise<string[][]> => {
    writes.length = 0;
    stream.emit("data"); // a task computes about this chunk
    for (const command of commands) {
      clock.ms += computesMs;
      stream.write(command);
    }
    await turnEnds();
    return [...writes];
  };
  assert.deepEqual(await turn(1), [["one two"]]);
  assert.deepEqual(await turn(1), [["one "], ["two"]]);
  assert.deepEqual(await turn(0.01), [["one "], ["two"]]);
  assert.deepEqual(await turn(0.01), [["one two"]]);
  const many = Array.from({ length: 100 }, () => ".");
  assert.deepEqual(await turn(0.01, many), [[many.join("")]]);
  assert.deepEqual(await turn(0.01), [["one two"]]); // a millisecond for a hundred commands is not long
});

test("after a turn that computed a limited number of commands leave at once, if no other turn is measured", async (t) => {
  const { stream, writes, clock } = recording(t);
  stream.emit("data");
  clock.ms += 1;
  stream.write("computed");
  await turnEnds();
  for (let i = 0; i < 40; i++) stream.write(`${i} `);
  await turnEnds();
  assert.equal(writes.length, 1 + 32 + 1);
  assert.deepEqual(writes.at(-1), ["32 33 34 35 36 37 38 39 "]);
});

test("the writes of later turns leave at their ends, however long ago something came in", async (t) => {
  const { stream, writes, clock } = recording(t);
  stream.emit("data");
  await turnEnds();
  clock.ms += 500;
  stream.write("one ");
  clock.ms += 500;
  stream.write("two");
  assert.deepEqual(writes, []);
  await turnEnds();
  stream.write("three ");
  stream.write("four");
  await turnEnds();
  assert.deepEqual(writes, [["one two"], ["three four"]]);
});

test("after answers to one command at a time the next one leaves at once, and later ones of the turn at its end", async (t) => {
  const { stream, writes, flushed } = recording(t);
  stream.write("one");
  await turnEnds();
  stream.emit("data"); // the answer,
  stream.emit("data"); // in two parts
  stream.write("two");
  assert.deepEqual(writes.at(-1), ["two"]);
  assert.equal(flushed(), 2);
  stream.emit("data");
  writes.length = 0;
  for (const command of ["three ", "four ", "five"]) stream.write(command);
  assert.deepEqual(writes, [["three "]]);
  await turnEnds();
  assert.deepEqual(writes, [["three "], ["four five"]]);
  stream.emit("data"); // the answers to three commands
  stream.emit("data");
  stream.write("six");
  assert.equal(writes.length, 2);
  await turnEnds();
  assert.deepEqual(writes.at(-1), ["six"]);
});

test("turns that compute are measured also if one command at a time is answered", async (t) => {
  const { stream, writes, clock } = recording(t);
  stream.emit("data");
  for (const computesMs of [1, 0.01]) {
    clock.ms += computesMs;
    stream.write("one");
    await turnEnds();
    stream.emit("data");
  }
  writes.length = 0;
  stream.write("two ");
  stream.write("three");
  assert.deepEqual(writes, [["two "]]); // and not three writes, as while turns compute
});

test("nothing leaves a stream that was destroyed in the same turn, and onFlush is not called", async (t) => {
  const { stream, writes, flushed } = recording(t);
  stream.write("never");
  stream.destroy();
  await turnEnds();
  assert.deepEqual(writes, []);
  assert.equal(flushed(), 0);
});
