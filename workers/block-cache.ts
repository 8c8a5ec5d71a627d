/** A value loaded from Redis, and what it costs to keep. */
export interface Sized {
  readonly bytes: number;
}

/**
 * Keeps a thread's blocks; the least recently used ones go first. Concurrent callers share one load, and a failed load
 * is not kept. For content that never changes under its key.
 */
export class BlockCache<T extends Sized> {
  readonly #maxBytes: number;
  readonly #loading = new Map<string, Promise<T>>();
  /** In the order of use, because a Map keeps the order of insertion. */
  readonly #blocks = new Map<string, T>();
  #bytes = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  get bytes(): number {
    return this.#bytes;
  }

  get(key: string, load: () => Promise<T>): Promise<T> | T {
    const block = this.#blocks.get(key);
    if (!block) return this.#loadOnce(key, load);
    this.#blocks.delete(key);
    this.#blocks.set(key, block);
    return block;
  }

  clear(): void {
    this.#blocks.clear();
    this.#bytes = 0;
  }

  #loadOnce(key: string, load: () => Promise<T>): Promise<T> {
    const running = this.#loading.get(key);
    if (running) return running;
    const loading = load()
      .then((block) => this.#keep(key, block))
      .finally(() => this.#loading.delete(key));
    this.#loading.set(key, loading);
    return loading;
  }

  #keep(key: string, block: T): T {
    this.#blocks.set(key, block);
    this.#bytes += block.bytes;
    for (const [oldest, { bytes }] of this.#blocks) {
      if (this.#bytes <= this.#maxBytes) break;
      this.#blocks.delete(oldest);
      this.#bytes -= bytes;
    }
    return block;
  }
}
