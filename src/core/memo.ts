import { monotonic, randomBetween } from "./clock.js";

/** Why a value left: its ttl was over, `max` other values were used since, or the caller deleted or cleared it. */
export type DisposeReason = "expired" | "evicted" | "deleted" | "cleared";

export interface ThreadCacheOptions<Args extends readonly unknown[], Value> {
  /** Values kept at most. The least recently used value leaves first. Default 128. */
  readonly max?: number | undefined;
  /** Calls with the same key share a value. Default: the arguments, which then must be primitives. */
  readonly key?: ((...args: Args) => unknown) | undefined;
  /** Called once for every value that leaves. Its failure never reaches the caller. */
  readonly dispose?: ((value: Value, reason: DisposeReason) => void | Promise<void>) | undefined;
  readonly onDisposeError?: ((error: unknown) => void) | undefined;
  /** Functions of one thread with the same name share one cache, with the options of the first function. */
  readonly name?: string | undefined;
}

export interface CacheOptions<Args extends readonly unknown[], Value> extends Omit<
  ThreadCacheOptions<Args, Value>,
  "name"
> {
  /** Age at which a value is no longer handed out. It counts from the end of the computation. Default 3 600 000. */
  readonly ttlMs?: number | undefined;
  /** Share of the ttl by which the ttl of each value varies at random, up or down. Default 0. */
  readonly jitter?: number | undefined;
  readonly now?: (() => number) | undefined;
  readonly random?: (() => number) | undefined;
}

/** `misses` counts the computations begun. A call that joins a running computation is a hit. */
export type CacheInfo = {
  readonly hits: number;
  readonly misses: number;
  readonly size: number;
  readonly max: number;
  readonly ttlMs: number;
};

export interface Cached<Args extends readonly unknown[], Value> {
  (...args: Args): Promise<Value>;
  /** Forgets all values in this turn, also the results of running computations. Resolves when all are disposed of. */
  clear(): Promise<void>;
  /** Forgets one value in this turn. Resolves, when it is disposed of, to whether there was one. */
  delete(...args: Args): Promise<boolean>;
  info(): CacheInfo;
}

/**
 * A function that keeps the values of `fn`. Concurrent calls share one computation and its failure; a failure is not kept. If
 * `clear` or `delete` overtakes a computation, its value goes to the callers that waited for it, then to `dispose`.
 */
export function cached<Args extends readonly unknown[], Value>(
  fn: (...args: Args) => Value | PromiseLike<Value>,
  options: CacheOptions<Args, Value> = {},
): Cached<Args, Value> {
  return wrap(fn, options, new Memo(options));
}

/** As `cached`, without a ttl: one cache per thread. Two copies of this package share a cache with a `name`. */
export function threadCached<Args extends readonly unknown[], Value>(
  fn: (...args: Args) => Value | PromiseLike<Value>,
  options: ThreadCacheOptions<Args, Value> = {},
): Cached<Args, Value> {
  const { name } = options;
  if (name === undefined) return wrap(fn, options, new Memo({ ...options, ttlMs: Infinity }));
  const named = threadRegistry<Value>();
  const memo = named.get(name) ?? new Memo<Value>({ ...options, ttlMs: Infinity });
  named.set(name, memo);
  return wrap(fn, options, memo);
}

function wrap<Args extends readonly unknown[], Value>(
  fn: (...args: Args) => Value | PromiseLike<Value>,
  { key = primitivesKey }: { readonly key?: ((...args: Args) => unknown) | undefined },
  memo: Memo<Value>,
): Cached<Args, Value> {
  return Object.assign(async (...args: Args) => await memo.get(key(...args), async () => await fn(...args)), {
    clear: () => memo.clear(),
    delete: async (...args: Args) => await memo.delete(key(...args)),
    info: () => memo.info(),
  });
}

interface CacheEntry<Value> {
  readonly value: Value;
  readonly expiresAt: number;
}

interface Flight<Value> {
  readonly value: Promise<Value>;
  /** Set when the value will no longer be wanted. */
  overtaken?: DisposeReason;
}

type MemoOptions<Value> = Omit<CacheOptions<never, Value>, "key">;

class Memo<Value> {
  readonly #options: MemoOptions<Value>;
  readonly #now: () => number;
  readonly #ttlMs: number;
  readonly #max: number;
  /** In the order of use: the value used last is the last one. */
  readonly #entries = new Map<unknown, CacheEntry<Value>>();
  readonly #flights = new Map<unknown, Flight<Value>>();
  #hits = 0;
  #misses = 0;

  constructor(options: MemoOptions<Value>) {
    const { ttlMs = 3_600_000, max = 128, jitter = 0, now = monotonic } = options;
    if (!(ttlMs > 0)) throw new RangeError(`ttlMs must be more than 0, got ${ttlMs}`);
    if (!(max >= 1)) throw new RangeError(`max must be at least 1, got ${max}`);
    if (!(jitter >= 0 && jitter <= 1)) throw new RangeError(`jitter must be from 0 to 1, got ${jitter}`);
    this.#options = options;
    this.#now = now;
    this.#ttlMs = ttlMs;
    this.#max = Math.floor(max);
  }

  async get(key: unknown, compute: () => Promise<Value>): Promise<Value> {
    const entry = this.#entries.get(key);
    if (entry && this.#now() < entry.expiresAt) {
      this.#hits++;
      this.#entries.delete(key);
      this.#entries.set(key, entry);
      return entry.value;
    }
    if (entry) void this.#remove(key, entry, "expired"); // never rejects
    const flight = this.#flights.get(key);
    if (flight) {
      this.#hits++;
      return await flight.value;
    }
    this.#misses++;
    return await this.#compute(key, compute);
  }

  async clear(): Promise<void> {
    for (const flight of this.#flights.values()) flight.overtaken = "cleared";
    this.#flights.clear();
    await Promise.all(Array.from(this.#entries, ([key, entry]) => this.#remove(key, entry, "cleared")));
  }

  async delete(key: unknown): Promise<boolean> {
    const flight = this.#flights.get(key);
    if (flight) flight.overtaken = "deleted";
    this.#flights.delete(key);
    const entry = this.#entries.get(key);
    if (entry) await this.#remove(key, entry, "deleted");
    return entry !== undefined || flight !== undefined;
  }

  info(): CacheInfo {
    return { hits: this.#hits, misses: this.#misses, size: this.#entries.size, max: this.#max, ttlMs: this.#ttlMs };
  }

  #compute(key: unknown, compute: () => Promise<Value>): Promise<Value> {
    const flight: Flight<Value> = {
      value: compute().then(
        (value) => {
          this.#land(key, flight, value);
          return value;
        },
        (error: unknown) => {
          if (!flight.overtaken) this.#flights.delete(key);
          throw error;
        },
      ),
    };
    this.#flights.set(key, flight);
    return flight.value;
  }

  #land(key: unknown, flight: Flight<Value>, value: Value): void {
    const { overtaken } = flight;
    if (overtaken) {
      // The callers that waited for the value get it first.
      setImmediate(() => void this.#dispose(value, overtaken));
      return;
    }
    this.#flights.delete(key);
    const { jitter = 0, random } = this.#options;
    const ttlMs = this.#ttlMs * randomBetween(1 - jitter, 1 + jitter, random);
    this.#entries.set(key, { value, expiresAt: this.#now() + ttlMs });
    if (this.#entries.size > this.#max) {
      for (const [oldestKey, oldest] of this.#entries) return void this.#remove(oldestKey, oldest, "evicted");
    }
  }

  /** The entry is gone in this turn. The promise resolves when its value is disposed of, and never rejects. */
  async #remove(key: unknown, entry: CacheEntry<Value>, reason: DisposeReason): Promise<void> {
    this.#entries.delete(key);
    await this.#dispose(entry.value, reason);
  }

  async #dispose(value: Value, reason: DisposeReason): Promise<void> {
    const { dispose, onDisposeError } = this.#options;
    try {
      await dispose?.(value, reason);
    } catch (error) {
      try {
        onDisposeError?.(error);
      } catch {
        // The caller asked for another value and cannot mend this one.
      }
    }
  }
}

/** Equal for equal primitives only: 1 and "1" differ, and so do ["a,b"] and ["a", "b"]. */
function primitivesKey(...args: readonly unknown[]): string {
  const parts = args.map((arg, index) => {
    if ((typeof arg === "object" && arg !== null) || typeof arg === "function" || typeof arg === "symbol") {
      throw new TypeError(`argument ${index} is a ${typeof arg}: give the option \`key\` to say when calls are equal`);
    }
    return [arg === null ? "null" : typeof arg, String(arg)];
  });
  return JSON.stringify(parts);
}

const REGISTRY = Symbol.for("redthread.thread-cached");

/** On globalThis, because two copies of this package in one thread have two of every module variable. */
function threadRegistry<Value>(): Map<string, Memo<Value>> {
  if (!Reflect.has(globalThis, REGISTRY)) Reflect.set(globalThis, REGISTRY, new Map());
  // Of any type: functions that share a name are responsible for the type of its values.
  const registry: Map<string, Memo<Value>> = Reflect.get(globalThis, REGISTRY);
  return registry;
}
