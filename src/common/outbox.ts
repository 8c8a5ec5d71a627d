import type { Writable } from "node:stream";

/** Chunks up to this size are copied into one; larger ones are cheaper to hand over as they are. */
const COPY_BYTES = 16_384;

/**
 * From now on what a loop turn writes to this stream leaves at the turn's end, in one system call and as one chunk: a
 * stream's own cork saves the call, but keeps a chunk, a callback and an encoding for each command. Nothing is delayed
 * beyond the turn, and the order stays, because every write of the stream passes here. `onFlush` is told before it
 * leaves; of a stream that has ended nothing leaves any more.
 */
export function sendThroughOutbox(stream: Writable, onFlush: () => void): void {
  const write: (chunk: string | Uint8Array) => boolean = stream.write.bind(stream);
  let chunks: (string | Uint8Array)[] = [];

  const flush = (): void => {
    if (!stream.writable) return;
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
    return true;
  };
}

function toBuffer(chunk: string | Uint8Array): Uint8Array {
  return typeof chunk === "string" ? Buffer.from(chunk) : chunk;
}
