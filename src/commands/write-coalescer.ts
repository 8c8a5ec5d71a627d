import type { Writable } from "node:stream";
import { monotonic } from "../core/clock.js";

/** Chunks up to this size are copied into one; larger chunks are cheaper to hand over as they are. */
const COPY_BYTES = 16_384;
/** A turn that took this long per command has computed for them. A write costs 10 µs: with less work, waiting is cheaper. */
const LONG_MS = 0.2;
/** After such a turn this many commands leave at once, if no other turn was measured meanwhile. */
const EARLY = 32;

export interface WriteCoalescer {
  /** How many writes were made so far. */
  readonly writes: number;
  /** What was written leaves at once. */
  flush(): void;
}

/**
 * From now on what a loop turn writes to this stream leaves at the end of the turn, in one system call and as one chunk.
 * A stream's own cork saves the call, but keeps a chunk, a callback and an encoding for each command. Two kinds of commands
 * leave at once: while turns compute, each command, because it would wait until the others have computed too; and the first
 * command after bytes came in, if the last bytes answered one command at a time. Nothing waits beyond the turn. The order
 * stays, because every write of the stream passes here. `onFlush` is asked before anything leaves. After the stream has
 * ended nothing leaves.
 */
export function coalesceWrites(stream: Writable, onFlush: (writes: number) => boolean): WriteCoalescer {
  const write: (chunk: string | Uint8Array) => boolean = stream.write.bind(stream);
  let chunks: (string | Uint8Array)[] = [];
  /** Commands written in this turn. */
  let commands = 0;
  /** When this turn began; undefined if nothing came in. */
  let turnAt: number | undefined;
  /** How many more commands leave at once. */
  let early = 0;
  /** Commands written since something came in. */
  let since = 0;
  /** Of late there was one command at a time: the next one leaves at once, because no other is going to join it. */
  let isLone = false;

  const flush = (): void => {
    if (!stream.writable || chunks.length === 0 || !onFlush(coalescer.writes)) return;
    const leaving = chunks;
    chunks = [];
    if (leaving.length === 1) write(leaving[0]!);
    else if (leaving.every(({ length }) => length <= COPY_BYTES)) write(Buffer.concat(leaving.map(toBuffer)));
    else {
      stream.cork();
      for (const chunk of leaving) write(chunk);
      stream.uncork();
    }
  };

  const endWrites = (): void => {
    if (turnAt !== undefined) early = (monotonic() - turnAt) / commands >= LONG_MS ? EARLY : 0;
    turnAt = undefined;
    commands = 0;
    flush();
  };

  stream.write = (chunk: string | Uint8Array): boolean => {
    const last = chunks.length - 1;
    // Strings are joined before they are encoded. No command splits a character.
    if (typeof chunk === "string" && typeof chunks[last] === "string") chunks[last] += chunk;
    else chunks.push(chunk);
    coalescer.writes++;
    since++;
    if (isLone) {
      isLone = false;
      flush();
      return true;
    }
    if (commands++ === 0) process.nextTick(endWrites);
    if (early > 0) {
      early--;
      flush();
    }
    return true;
  };
  const endTurn = (): void => (turnAt = undefined);
  stream.prependListener("data", () => {
    if (since > 0) isLone = since === 1 && early === 0; // otherwise it is the rest of what came in before
    since = 0;
    if (isLone) return; // the next command leaves at once anyway, and nothing is measured
    if (turnAt === undefined) setImmediate(endTurn);
    turnAt = monotonic();
  });
  const coalescer = { writes: 0, flush };
  return coalescer;
}

function toBuffer(chunk: string | Uint8Array): Uint8Array {
  return typeof chunk === "string" ? Buffer.from(chunk) : chunk;
}
