import type { Writable } from "node:stream";
import { monotonic } from "../core/clock.js";

/** Chunks up to this size are copied into one; larger ones are cheaper to hand over as they are. */
const COPY_BYTES = 16_384;
/**
 * A turn that took so long for each command it wrote has computed for them. Writing costs 10 µs: with less work than this
 * it is dearer than waiting.
 */
const LONG_MS = 0.2;
/** After such a turn so many commands leave at once, if no other turn has been measured meanwhile. */
const EARLY = 32;

export interface WriteCoalescer {
  /** So far. */
  readonly writes: number;
  /** What was written leaves at once. */
  flush(): void;
}

/**
 * From now on what a loop turn writes to this stream leaves at the turn's end, in one system call and as one chunk: a
 * stream's own cork saves the call, but keeps a chunk, a callback and an encoding for each command. While turns compute,
 * each command leaves at once, for it would wait until the others have computed too; so does the first one after bytes
 * came in where they answered one command at a time. Nothing is delayed beyond the turn, and the order stays, because
 * every write of the stream passes here. `onFlush` is asked before it leaves; of a stream that has ended nothing leaves
 * any more.
 */
export function coalesceWrites(stream: Writable, onFlush: (writes: number) => boolean): WriteCoalescer {
  const write: (chunk: string | Uint8Array) => boolean = stream.write.bind(stream);
  let chunks: (string | Uint8Array)[] = [];
  /** Of this turn. */
  let commands = 0;
  /** When the turn began, if it is one in which something came in. */
  let turnAt: number | undefined;
  /** So many more leave at once. */
  let early = 0;
  /** Commands since something came in. */
  let since = 0;
  /** There was one at a time of late: the next leaves at once, for no other is going to join it. */
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
    // Strings are encoded together. Commands never split a character.
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
    if (since > 0) isLone = since === 1 && early === 0; // else it is the rest of what came in before
    since = 0;
    if (isLone) return; // nothing to be measured: it leaves at once anyway
    if (turnAt === undefined) setImmediate(endTurn);
    turnAt = monotonic();
  });
  const coalescer = { writes: 0, flush };
  return coalescer;
}

function toBuffer(chunk: string | Uint8Array): Uint8Array {
  return typeof chunk === "string" ? Buffer.from(chunk) : chunk;
}
