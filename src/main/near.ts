import type { RedisHandle } from "../commands/ioredis.js";
import { ownWrites } from "../commands/own-writes.js";
import type { Config } from "../config/options.js";
import { ConfigInvalidError } from "../core/errors.js";
import type { NearField } from "../link/ledger.js";
import { makeNearBuffers, type NearBuffers } from "../near/near-buffers.js";
import type { Near, NearCache } from "../near/near-cache.js";
import type { NearCounts, NearStats } from "../near/near-stats.js";

type GetRedis = () => Promise<RedisHandle>;

/** What reads the numbers of a near cache. */
interface Observer {
  readonly counts: (count: (field: NearField) => number) => NearCounts;
  readonly stats: (main: NearCounts, totals: NearCounts) => NearStats;
  readonly problem: () => string | undefined;
}

/** The memory of the near cache, and the near cache of the main thread. Without `nearCache.prefixes` nothing is made or loaded. */
export class MainNear {
  readonly buffers: NearBuffers | undefined;
  readonly #counts: Partial<Record<NearField, number>> = {};
  readonly #opening: Promise<NearCache> | undefined;
  #cache: NearCache | undefined;
  #observer: Observer | undefined;

  /** Without `getRedis` the main thread has no near cache of its own. */
  constructor(config: Config, getRedis?: GetRedis) {
    if (!config.nearCache.prefixes) return;
    this.buffers = makeNearBuffers(config.nearCache);
    void this.#observe(this.buffers);
    if (!getRedis) return;
    this.#opening = this.#open(config, this.buffers, getRedis);
    ownWrites.ready = Promise.all([ownWrites.ready, this.#opening]).then(() => undefined); // it outlives this cache
  }

  /** The counts of one thread, read by `count`. Null without a near cache, and until its code is loaded. */
  countsOf(count: (field: NearField) => number): NearCounts | null {
    return this.#observer?.counts(count) ?? null;
  }

  /** `count` sums over all other threads so far. */
  stats(count: (field: NearField) => number): NearStats | null {
    if (!this.#observer) return null;
    const own = (field: NearField): number => this.#counts[field] ?? 0;
    const totals = this.#observer.counts((field) => own(field) + count(field));
    return this.#observer.stats(this.#observer.counts(own), totals);
  }

  /** Why no value is served, if it is not only for a moment. */
  get problem(): string | undefined {
    return this.#observer?.problem();
  }

  /** Told of each connection of the primary client. Undefined without a near cache. */
  get onIdentified(): ((server: string | undefined) => void) | undefined {
    return this.buffers && ((server): void => this.#cache?.identified(server));
  }

  /** What the manager's user gets. */
  readonly face: Near = {
    get: (key, options) => this.#cache?.get(key, options) ?? this.#opened().then((near) => near.get(key, options)),
    getBuffer: (key, options) =>
      this.#cache?.getBuffer(key, options) ?? this.#opened().then((near) => near.getBuffer(key, options)),
    json: (key, options) => this.#cache?.json(key, options) ?? this.#opened().then((near) => near.json(key, options)),
    mget: (keys, options) =>
      this.#cache?.mget(keys, options) ?? this.#opened().then((near) => near.mget(keys, options)),
    peek: (key) => {
      if (!this.#opening) throw noNearCache();
      return this.#cache?.peek(key);
    },
  };

  /** What the thread was filling may be filled by others. It has exited. */
  async threadExited(threadId: number): Promise<void> {
    if (!this.buffers) return;
    const [{ closeSegments }, { NearMemory }, { ownerOf }] = await Promise.all([
      import("../near/near-log.js"),
      import("../near/near-memory.js"),
      import("../near/open-near.js"),
    ]);
    closeSegments(new NearMemory(this.buffers), ownerOf(threadId));
  }

  close(): void {
    void this.#opening?.then((cache) => cache.close());
  }

  async #opened(): Promise<NearCache> {
    if (!this.#opening) throw noNearCache();
    return this.#opening;
  }

  async #open(config: Config, buffers: NearBuffers, getRedis: GetRedis): Promise<NearCache> {
    const { openNear } = await import("../near/open-near.js");
    const counter = (field: NearField): (() => void) => {
      this.#counts[field] = 0;
      return () => {
        this.#counts[field] = (this.#counts[field] ?? 0) + 1;
      };
    };
    return (this.#cache = openNear({ config, buffers, threadId: 0, getRedis, counter }));
  }

  async #observe(buffers: NearBuffers): Promise<void> {
    const [{ NearMemory }, { nearCounts, nearProblem, nearStats }] = await Promise.all([
      import("../near/near-memory.js"),
      import("../near/near-stats.js"),
    ]);
    const memory = new NearMemory(buffers);
    this.#observer = {
      counts: nearCounts,
      stats: (main, totals) => nearStats(memory, main, totals),
      problem: () => nearProblem(memory),
    };
  }
}

function noNearCache(): ConfigInvalidError {
  return new ConfigInvalidError("there is no near cache: nearCache.prefixes is missing", { outcome: "not-sent" });
}
