import type { ConnectionManager } from "../../src/index.js";
import { QUANTIZERS, type QuantizerName } from "../quantize.js";
import { partKeys } from "../tensor-parts.js";
import { HEADER_BYTES } from "../tensor.js";
import { TopK, type Hits } from "../top-k.js";
import type { Storage } from "../vector-tasks.js";
import type { VectorFile } from "./vector-file.js";

export type VectorManager = ConnectionManager<typeof import("../vector-tasks.js")>;

export interface VectorStoreOptions {
  readonly manager: VectorManager;
  /** Precedes every key. */
  readonly prefix: string;
  readonly vectors: VectorFile;
  /** The number of words. */
  readonly words: number;
  readonly signal: AbortSignal;
  /** The int8 vectors are read through the near cache. Default false. */
  readonly isNear?: boolean;
}

interface Block {
  readonly firstRow: number;
  readonly rows: number;
}

export const STRATEGIES = Object.keys(QUANTIZERS) as readonly QuantizerName[];

/** The rows of one task: about 1 ms of search, and 1.6 MB as float32. */
const BLOCK_ROWS = 4_096;
/** One row in so many is ranked after its sign bits were compared. */
const ROWS_PER_CANDIDATE = 25;
const MIN_CANDIDATES = 32;
/** Enough that the threads never wait, but few enough that the queue does not hold all vectors. */
const AT_ONCE = 8;
/** If this process is killed, its keys on a shared server expire. */
const TTL_SECONDS = 3_600;

/** The vectors of the most frequent words in Redis, in blocks, stored and searched by the manager's threads. */
export class VectorStore {
  readonly blocks: readonly Block[];
  readonly #options: VectorStoreOptions;

  constructor(options: VectorStoreOptions) {
    this.#options = options;
    const count = Math.ceil(options.words / BLOCK_ROWS);
    const rows = Math.ceil(options.words / count);
    this.blocks = Array.from({ length: count }, (_, at) => {
      return { firstRow: at * rows, rows: Math.min(rows, options.words - at * rows) };
    });
  }

  /** Every key that `store` may have set, so that they can be deleted without a search on a shared server. */
  keys(): string[] {
    return STRATEGIES.flatMap((strategy) =>
      this.blocks.flatMap((block) => {
        const key = this.#key(strategy, block);
        return this.#storage(strategy) === "key" ? [key] : partKeys(key, this.#bytes(strategy, block));
      }),
    );
  }

  async store(quantizer: QuantizerName, onBlock: () => void): Promise<void> {
    const { manager, vectors, signal } = this.#options;
    const { dimensions } = vectors;
    await eachOf(this.blocks, async (block) => {
      const values = await vectors.rows(block.firstRow, block.rows);
      const key = this.#key(quantizer, block);
      const storage = this.#storage(quantizer);
      const input = { key, storage, quantizer, dimensions, values, ttlSeconds: TTL_SECONDS };
      await manager.run("store", input, { transferList: [values.buffer], signal });
      onBlock();
    });
  }

  /** The rows nearest to the vector of `row`, without this row. */
  async nearest(strategy: QuantizerName, row: number, k: number): Promise<Hits> {
    const query = await this.#options.vectors.rows(row, 1);
    const { manager, signal } = this.#options;
    const found = this.blocks.map((block) => {
      const key = this.#key(strategy, block);
      const input = { key, storage: this.#storage(strategy), firstRow: block.firstRow, query, k: k + 1 };
      if (strategy !== "sign") return manager.run("search", input, { signal });
      const candidates = Math.max(MIN_CANDIDATES, Math.ceil(block.rows / ROWS_PER_CANDIDATE));
      const rankBy = { rankKey: this.#key("int8", block), rankStorage: this.#storage("int8") };
      return manager.run("searchSigns", { ...input, ...rankBy, candidates }, { signal });
    });
    return merge(await Promise.all(found), row, k);
  }

  /** The true result of `nearest`, for each of `rows`. */
  async nearestExactly(rows: readonly number[], k: number, onBlock: () => void): Promise<Hits[]> {
    const { manager, vectors, signal } = this.#options;
    const queries = await Promise.all(rows.map((row) => vectors.rows(row, 1)));
    const found = await eachOf(this.blocks, async (block) => {
      const input = { key: this.#key("float32", block), firstRow: block.firstRow, queries, k: k + 1 };
      const hits = await manager.run("searchExactly", input, { signal });
      onBlock();
      return hits;
    });
    return rows.map((row, at) =>
      merge(
        found.map((hits) => hits[at]!),
        row,
        k,
      ),
    );
  }

  #storage(strategy: QuantizerName): Storage {
    return strategy === "int8" && this.#options.isNear ? "near" : "key";
  }

  #bytes(strategy: QuantizerName, { rows }: Block): number {
    return HEADER_BYTES + rows * QUANTIZERS[strategy].bytesPerVector(this.#options.vectors.dimensions);
  }

  #key(strategy: QuantizerName, { firstRow }: Block): string {
    return `${this.#options.prefix}${strategy}:${firstRow}`;
  }
}

/** Runs `fn` for every item, a few at a time; the results are in the order of the items. */
export async function eachOf<T, R>(items: readonly T[], fn: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  const queue = items.entries();
  const work = async (): Promise<void> => {
    for (const [at, item] of queue) results[at] = await fn(item);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  return results;
}

function merge(parts: readonly Hits[], self: number, k: number): Hits {
  const top = new TopK(k);
  for (const { rows, scores } of parts) rows.forEach((row, at) => row !== self && top.offer(row, scores[at]!));
  return top.hits();
}
