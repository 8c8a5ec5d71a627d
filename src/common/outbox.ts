import type { Writable } from "node:stream";
import { monotonic } from "./time.js";

/** Chunks up to this size are copied into one; larger ones are cheaper to hand over as they are. */
const COPY_BYTES = 16_384;
/**
 * What is written so long after something came in, and in the same turn, follows a computation; another one may come before
 * the turn ends.
 */
const LONG_TURN_MS = 5;

/**
 * From now on what a loop turn writes to this stream leaves at the turn's end, in one system call and as one chunk: a
 * stream's own cork saves the call, but keeps a chunk, a callback and an encoding for each command. In a turn that takes
 * long it leaves at once. Nothing is delayed beyond the turn, and the order stays, because every write of the stream
 * passes here. `onFlush` is told before it leaves; of a stream that has ended nothing leaves any more.
 */
export function sendThroughOutbox(stream: Writable, onFlush: () => void): void {
  const write: (chunk: string | Uint8Array) => boolean = stream.write.bind(stream);
  let chunks: (string | Uint8Array)[] = [];
  /** When the turn began, if it is one in which something came in. */
  let turnAt: number | undefined;

  const flush = (): void => {
    if (!stream.writable || chunks.length === 0) return;
    const leaving = chunks;
    chunks = [];
    onFlush();
    if (leaving.length === 1) write(leaving[0]!);
    else if (leaving.every(({ length }) => length <= COPY_BYTES)) write(Buffer.concat(leaving.map(toBuffer)));
    else {
      stream.cork();
      for (const chunk of leaving) write(chunk);
      stream.uncork();
    }
  };

  stream.write = (chunk: string | Uint8Array): boolean => {
    const last = chunks.length - 1;
    if (last < 0) process.nextTick(flush);
    // Strings are encoded together. Commands never split a character.
    if (typeof chunk === "string" && typeof chunks[last] === "string") chunks[last] += chunk;
    else chunks.push(chunk);
    if (turnAt === undefined) return true;
    const now = monotonic();
    if (now - turnAt < LONG_TURN_MS) return true;
    turnAt = now;
    flush();
    return true;
  };
  const endTurn = (): void => (turnAt = undefined);
  stream.prependListener("data", () => {
    if (turnAt === undefined) setImmediate(endTurn);
    turnAt = monotonic();
  });
}

function toBuffer(chunk: string | Uint8Array): Uint8Array {
  return typeof chunk === "string" ? Buffer.from(chunk) : chunk;
}
