import type { Near } from "../../src/worker.js";

// The words of the memory in which the test and the threads that watch a key meet.
const JOINED = 0;
const ROUND = 1;
const KIND = 2;
const DONE = 3;
const KEY_BYTES = 4;
const VALUE_BYTES = 5; // -1: the key does not exist
const WORDS = 8;
const MAX_BYTES = 4_096;
const WARM = 1;
const LOOK = 2;
const OVER = 3;

/** What the threads are asked to do with a key: to have it in their memory, or to tell whether they see this value. */
export class NearRounds {
  readonly buffer: SharedArrayBuffer;
  readonly #cells: Int32Array<SharedArrayBuffer>;
  readonly #bytes: Buffer;

  constructor(buffer = new SharedArrayBuffer(4 * WORDS + 2 * MAX_BYTES)) {
    this.buffer = buffer;
    this.#cells = new Int32Array(buffer, 0, WORDS);
    this.#bytes = Buffer.from(buffer, 4 * WORDS);
  }

  get joined(): number {
    return Atomics.load(this.#cells, JOINED);
  }

  async warm(key: string, watchers: number): Promise<void> {
    await this.#round(WARM, key, null, watchers);
  }

  async look(key: string, value: Buffer | null, watchers: number): Promise<void> {
    await this.#round(LOOK, key, value, watchers);
  }

  end(): void {
    Atomics.store(this.#cells, KIND, OVER);
    Atomics.add(this.#cells, ROUND, 1);
  }

  async #round(kind: number, key: string, value: Buffer | null, watchers: number): Promise<void> {
    const cells = this.#cells;
    Atomics.store(cells, KEY_BYTES, this.#bytes.write(key));
    Atomics.store(cells, VALUE_BYTES, value ? value.length : -1);
    if (value) this.#bytes.set(value, MAX_BYTES);
    Atomics.store(cells, KIND, kind);
    Atomics.store(cells, DONE, 0);
    Atomics.add(cells, ROUND, 1);
    while (Atomics.load(cells, DONE) < watchers) await nextTurn();
  }

  /** In a thread, until it is over. Gives what it saw that was wrong. */
  async watch(near: Near): Promise<string[]> {
    const cells = this.#cells;
    const problems: string[] = [];
    let seen = Atomics.load(cells, ROUND);
    Atomics.add(cells, JOINED, 1);
    for (;;) {
      if (Atomics.load(cells, ROUND) === seen) {
        await new Promise((resolve) => setTimeout(resolve, 1));
        continue;
      }
      seen = Atomics.load(cells, ROUND);
      const kind = Atomics.load(cells, KIND);
      if (kind === OVER) return problems;
      if (kind === WARM) await readUntilHit(near, this.#key);
      else problems.push(...(await this.#wrong(near)));
      Atomics.add(cells, DONE, 1);
    }
  }

  get #key(): string {
    return this.#bytes.toString("utf8", 0, Atomics.load(this.#cells, KEY_BYTES));
  }

  async #wrong(near: Near): Promise<string[]> {
    const key = this.#key;
    const length = Atomics.load(this.#cells, VALUE_BYTES);
    const bytes = length === -1 ? null : Buffer.from(this.#bytes.subarray(MAX_BYTES, MAX_BYTES + length));
    const text = bytes && bytes.toString();
    const peeked = near.peek(key);
    const [got, buffer, [first]] = await Promise.all([near.get(key), near.getBuffer(key), near.mget([key, key])]);
    const isRight =
      (peeked === undefined || peeked === text) &&
      got === text &&
      first === text &&
      (buffer === null ? bytes === null : bytes !== null && buffer.equals(bytes));
    return isRight ? [] : [`${key}: not ${text} but ${peeked}, ${got}, ${first}, ${String(buffer)}`];
  }
}

/** Gives up soon, because not everything is kept. */
async function readUntilHit(near: Near, key: string): Promise<void> {
  for (let i = 0; i < 5; i++) {
    await near.get(key);
    if (near.peek(key) !== undefined) return;
  }
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
