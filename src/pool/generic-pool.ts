import type { Factory, Options, Pool } from "generic-pool";
import { requirePackage } from "../core/packages.js";

export type EntryPool<S> = Pool<S>;

export interface EntryPoolOptions<S> extends Factory<S> {
  readonly max: number;
  /** Idle slots are looked at twice in this time, at least every 30 s. */
  readonly shortestMs: number;
  /** Whether an idle slot is to be destroyed. */
  readonly evict: (entry: S) => boolean;
}

const EVICTION_MS = 30_000;

/** generic-pool, which is loaded by the first call: it keeps slots, their maximum and their order, and asks who is to go. */
export function makeEntryPool<S>({ max, shortestMs, evict, ...factory }: EntryPoolOptions<S>): EntryPool<S> {
  const generic = requirePackage<GenericPool>("generic-pool");
  class Evictor {
    evict(_config: unknown, { obj }: { readonly obj: S }): boolean {
      return evict(obj);
    }
  }
  const evictionRunIntervalMillis = Math.max(1, Math.min(EVICTION_MS, Math.ceil(shortestMs / 2)));
  // Last in, first out: otherwise every slot is used now and then, and the pool never shrinks.
  const options = { max, min: 0, fifo: false, evictionRunIntervalMillis, numTestsPerEvictionRun: max };
  return new generic.Pool(Evictor, generic.Deque, generic.PriorityQueue, factory, options);
}

/** generic-pool's types leave out the constructor its own createPool uses, the only one that takes an evictor. */
interface GenericPool {
  Pool: new <S>(
    evictor: new () => { evict(config: unknown, resource: { readonly obj: S }): boolean },
    deque: unknown,
    queue: unknown,
    factory: Factory<S>,
    options: Options,
  ) => Pool<S>;
  Deque: unknown;
  PriorityQueue: unknown;
}
