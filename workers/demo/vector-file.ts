import { open, rename, rm, type FileHandle } from "node:fs/promises";

/**
 * magic "RTVF" · version u32 · words u32 · dimensions u32 · bytes of the word list u64 · reserved u64; then the word
 * list as JSON, filled up with blanks to a multiple of 4; then a row of float32 for each word. Little-endian.
 */
const HEADER_BYTES = 32;
const MAGIC = 0x4656_5452;
const VERSION = 1;
const FLUSH_BYTES = 1024 * 1024;

interface Layout {
  readonly words: number;
  readonly dimensions: number;
  readonly wordListBytes: number;
}

/** Words and their vectors in a compact file, read at once or by rows. */
export class VectorFile implements AsyncDisposable {
  readonly words: readonly string[];
  readonly dimensions: number;
  readonly #file: FileHandle;
  readonly #rowsAt: number;

  private constructor(file: FileHandle, words: readonly string[], { dimensions, wordListBytes }: Layout) {
    this.words = words;
    this.dimensions = dimensions;
    this.#file = file;
    this.#rowsAt = HEADER_BYTES + wordListBytes;
  }

  /** Undefined if there is no such file, or if it is not complete. */
  static async open(path: string): Promise<VectorFile | undefined> {
    const file = await open(path, "r").catch(() => undefined); // a file that cannot be read is made again
    if (!file) return undefined;
    try {
      const layout = parseLayout(await read(file, 0, HEADER_BYTES), (await file.stat()).size);
      if (layout) {
        const list = await read(file, HEADER_BYTES, layout.wordListBytes);
        return new VectorFile(file, JSON.parse(list.toString()) as string[], layout);
      }
    } catch {
      // No word list, so that this is no vector file.
    }
    await file.close();
    return undefined;
  }

  /** The vectors of `count` words from the word `first` on. */
  async rows(first: number, count: number): Promise<Float32Array<ArrayBuffer>> {
    const stride = this.dimensions * 4;
    const bytes = await read(this.#file, this.#rowsAt + first * stride, count * stride);
    return new Float32Array(bytes.buffer);
  }

  close(): Promise<void> {
    return this.#file.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** Writes a VectorFile. It gets its name when it is complete, or never. */
export class VectorFileWriter {
  readonly #path: string;
  readonly #temporary: string;
  readonly #file: FileHandle;
  readonly #buffer = Buffer.alloc(FLUSH_BYTES);
  #layout: Layout | undefined;
  /** The rows that have been written. */
  #written: Uint8Array = new Uint8Array(0);
  #missing = 0;
  #filled = 0;
  #bufferAt = 0;
  #writing: Promise<void> = Promise.resolve();

  private constructor(path: string, temporary: string, file: FileHandle) {
    this.#path = path;
    this.#temporary = temporary;
    this.#file = file;
  }

  static async create(path: string): Promise<VectorFileWriter> {
    const temporary = `${path}.${process.pid}.tmp`;
    return new VectorFileWriter(path, temporary, await open(temporary, "w"));
  }

  get rows(): number {
    return this.#written.length - this.#missing;
  }

  begin(words: readonly string[], dimensions: number): void {
    const list = Buffer.from(JSON.stringify(words));
    const padded = Buffer.alloc(Math.ceil(list.length / 4) * 4, " ");
    list.copy(padded);
    this.#layout = { words: words.length, dimensions, wordListBytes: padded.length };
    this.#written = new Uint8Array(words.length);
    this.#missing = words.length;
    this.#write(Buffer.concat([layoutBytes(this.#layout), padded]), 0);
  }

  /** Rows may come in any order, best in their own; a `drained()` now and then limits the memory. */
  vector(index: number, values: Float32Array): void {
    const { dimensions, wordListBytes } = this.#layout!;
    const at = HEADER_BYTES + wordListBytes + index * dimensions * 4;
    if (at !== this.#bufferAt + this.#filled || this.#filled + values.byteLength > FLUSH_BYTES) {
      this.#flush();
      this.#bufferAt = at;
    }
    this.#filled += Buffer.from(values.buffer, values.byteOffset, values.byteLength).copy(this.#buffer, this.#filled);
    if (!this.#written[index]) this.#missing--;
    this.#written[index] = 1;
  }

  /** Resolves when the operating system has everything so far. */
  async drained(): Promise<void> {
    await this.#writing;
  }

  /** Completes the file. @throws Error if a word has no vector */
  async finish(): Promise<void> {
    if (!this.#layout || this.#missing > 0) throw new Error(`${this.#missing || "all"} words have no vector`);
    this.#flush();
    await this.#writing;
    await this.#file.sync();
    await this.#file.close();
    await rename(this.#temporary, this.#path);
  }

  /** Deletes the incomplete file. */
  async abandon(): Promise<void> {
    await this.#writing.catch(() => {}); // the caller has this error, or a better one
    await this.#file.close();
    await rm(this.#temporary, { force: true });
  }

  #flush(): void {
    if (this.#filled > 0) this.#write(Buffer.from(this.#buffer.subarray(0, this.#filled)), this.#bufferAt);
    this.#filled = 0;
  }

  #write(bytes: Buffer, position: number): void {
    this.#writing = this.#writing.then(() => writeAll(this.#file, bytes, position));
    this.#writing.catch(() => {}); // `drained` and `finish` report it
  }
}

async function writeAll(file: FileHandle, bytes: Buffer, position: number): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    done += (await file.write(bytes, done, bytes.length - done, position + done)).bytesWritten;
  }
}

/** In its own memory, so that it can be viewed as float32. */
async function read(file: FileHandle, position: number, length: number): Promise<Buffer<ArrayBuffer>> {
  const bytes = Buffer.from(new ArrayBuffer(length));
  for (let done = 0; done < length;) {
    const { bytesRead } = await file.read(bytes, done, length - done, position + done);
    if (bytesRead === 0) throw new Error("the file of vectors ends too early");
    done += bytesRead;
  }
  return bytes;
}

function layoutBytes({ words, dimensions, wordListBytes }: Layout): Buffer {
  const bytes = Buffer.alloc(HEADER_BYTES);
  [MAGIC, VERSION, words, dimensions].forEach((value, at) => bytes.writeUInt32LE(value, at * 4));
  bytes.writeBigUInt64LE(BigInt(wordListBytes), 16);
  return bytes;
}

function parseLayout(bytes: Buffer, size: number): Layout | undefined {
  const [magic, version, words, dimensions] = [0, 4, 8, 12].map((at) => bytes.readUInt32LE(at));
  const wordListBytes = Number(bytes.readBigUInt64LE(16));
  if (magic !== MAGIC || version !== VERSION || words === undefined || dimensions === undefined) return undefined;
  const whole = HEADER_BYTES + wordListBytes + words * dimensions * 4;
  return size === whole ? { words, dimensions, wordListBytes } : undefined;
}
