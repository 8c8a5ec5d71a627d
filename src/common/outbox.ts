import type { Writable } from "node:stream";

/** Chunks up to this size are copied into one; larger ones are cheaper to hand over as they are. */
const COPY_BYTES = 16_384;

/**
 * What a loop turn writes to a socket leaves at its end, in one system call and as one chunk: a stream's own cork saves
 * the call, but keeps a chunk, a callback and an encoding for each command. Nothing is delayed beyond the turn, and the
 * order stays, because every write of the stream passes here.
 */
export class Outbox {
  readonly #stream: Writable;
  readonly #write: (chunk: string | Uint8Array) => boolean;
  readonly #onFlush: () => void;
  #chunks: (string | Uint8Array)[] = [];

  constructor(stream: Writable, onFlush: () => void) {
    this.#stream = stream;
    this.#write = stream.write.bind(stream);
    this.#onFlush = onFlush;
    stream.write = (chunk: string | Uint8Array): boolean => {
      this.#add(chunk);
      return true;
    };
  }

  /** Writes what waits, at once; of a stream that has ended nothing leaves any more. */
  flush(): void {
    const chunks = this.#chunks;
    if (chunks.length === 0 || !this.#stream.writable) return;
    this.#chunks = [];
    this.#onFlush();
    const [first] = chunks;
    if (chunks.length === 1) this.#write(first!);
    else if (chunks.every(({ length }) => length <= COPY_BYTES)) this.#write(Buffer.concat(chunks.map(toBuffer)));
    else {
      this.#stream.cork();
      for (const chunk of chunks) this.#write(chunk);
      this.#stream.uncork();
    }
  }

  #add(chunk: string | Uint8Array): void {
    const last = this.#chunks.length - 1;
    if (last < 0) process.nextTick(() => this.flush());
    // Strings are encoded together. Commands never split a character.
    if (typeof chunk === "string" && typeof this.#chunks[last] === "string") this.#chunks[last] += chunk;
    else this.#chunks.push(chunk);
  }
}

function toBuffer(chunk: string | Uint8Array): Uint8Array {
  return typeof chunk === "string" ? Buffer.from(chunk) : chunk;
}
