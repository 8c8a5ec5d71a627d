const BLOCK = 512;

interface Entry {
  readonly name: string;
  readonly isFile: boolean;
  readonly size: number;
}

/**
 * The content of one file of a tar archive, as it is read; the rest of the archive is left unread. It is enough for
 * npm's archives: names of up to 100 characters (longer ones are skipped), no links. @throws Error if there is no such
 * file, or the archive ends too early or is none
 */
export async function* tarEntry(archive: AsyncIterable<Uint8Array>, name: string): AsyncGenerator<Uint8Array> {
  const bytes = new ByteReader(archive);
  try {
    for (;;) {
      const header = await bytes.exactly(BLOCK);
      if (header.every((byte) => byte === 0)) throw new Error(`the archive holds no file "${name}"`);
      const entry = readTarHeader(header);
      if (entry.isFile && entry.name === name) return yield* bytes.next(entry.size);
      const padded = Math.ceil(entry.size / BLOCK) * BLOCK;
      for await (const skipped of bytes.next(padded)) void skipped;
    }
  } finally {
    await bytes.close();
  }
}

function readTarHeader(header: Uint8Array): Entry {
  const text = Buffer.from(header).toString("latin1");
  const [checksum, type] = [text.slice(148, 156), text[156]];
  // The checksum was made with blanks in its own field.
  const sum = header.reduce((total, byte, at) => total + (at >= 148 && at < 156 ? 32 : byte), 0);
  if (sum !== octal(checksum)) throw new Error("this is no tar archive, or a damaged one");
  return {
    name: text.slice(0, 100).replace(/\0.*$/s, ""),
    isFile: type === "0" || type === "\0",
    size: octal(text.slice(124, 136)),
  };
}

function octal(field: string): number {
  return Number.parseInt(field.replace(/\0.*$/s, "").trim() || "0", 8);
}

/** Splits a stream of chunks at byte counts. */
class ByteReader {
  readonly #chunks: AsyncIterator<Uint8Array>;
  #rest: Uint8Array = new Uint8Array(0);

  constructor(chunks: AsyncIterable<Uint8Array>) {
    this.#chunks = chunks[Symbol.asyncIterator]();
  }

  async *next(count: number): AsyncGenerator<Uint8Array> {
    for (let left = count; left > 0;) {
      if (this.#rest.length === 0) await this.#refill();
      const part = this.#rest.subarray(0, left);
      this.#rest = this.#rest.subarray(part.length);
      left -= part.length;
      yield part;
    }
  }

  async exactly(count: number): Promise<Uint8Array> {
    const parts = [];
    for await (const part of this.next(count)) parts.push(part);
    return Buffer.concat(parts);
  }

  async close(): Promise<void> {
    await this.#chunks.return?.();
  }

  async #refill(): Promise<void> {
    const { value, done } = await this.#chunks.next();
    if (done) throw new Error("the archive ends too early");
    this.#rest = value;
  }
}
