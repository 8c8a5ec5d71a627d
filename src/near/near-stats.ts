import { sharedClock } from "../core/clock.js";
import type { NearField } from "../link/ledger.js";
import { usageOf } from "./near-log.js";
import { type NearMemory, OFF_REASONS, OFF, type OffReason, STARTING, TRACKING } from "./near-memory.js";

/** What threads count of the near cache. */
export interface NearCounts {
  /** Reads without a question to Redis: from what the thread had decoded (`own`), and from the memory of all threads. */
  readonly hits: { readonly own: number; readonly shared: number };
  /** Reads that asked Redis. */
  readonly misses: number;
  /** Of these, those while no value might be served. */
  readonly unleased: number;
  /** Replies that were kept. */
  readonly fills: number;
  /** Replies that were not kept because the key was written meanwhile. */
  readonly outdated: number;
  /** … because they came from another server than the keeper's. */
  readonly elsewhere: number;
  /** … because they are larger than `nearCache.maxValueBytes`, or whose key is longer than 1 024 bytes. */
  readonly oversize: number;
}

export interface NearStats {
  /** `starting`: the keeper is not connected yet, or not again. `off`: every read asks Redis. */
  readonly state: "starting" | "on" | "off";
  /** Why it is off: which command the server refuses, that it is no master, that it has no RESP3, or that no keeper is there. */
  readonly reason: OffReason | null;
  /** For so long values may be served without another word of the server. 0: every read asks Redis. */
  readonly leaseMs: number;
  /** Since the moment up to which the keeper has heard of all writes. Null before the first one. */
  readonly proofAgeMs: number | null;
  /** Values with their keys, outdated ones included. */
  readonly usedBytes: number;
  readonly maxBytes: number;
  /** How many segments of the memory were emptied to be filled again. */
  readonly wraps: number;
  /** Keys that the server told were written. */
  readonly invalidated: number;
  /** How many times all values were dropped: at each connect, by FLUSHALL, by a command of this process with keys that are not known … */
  readonly flushes: number;
  /** How many times the keeper began to hear of writes. */
  readonly connects: number;
  /** Of the main thread. */
  readonly main: NearCounts;
  /** Sums over the main thread and all threads so far. */
  readonly totals: NearCounts;
  /** What to change if the numbers say that the cache is of little use. */
  readonly advice: string | null;
}

export function nearCounts(count: (field: NearField) => number): NearCounts {
  return {
    hits: { own: count("nearOwnHits"), shared: count("nearSharedHits") },
    misses: count("nearMisses"),
    unleased: count("nearUnleased"),
    fills: count("nearFills"),
    outdated: count("nearOutdated"),
    elsewhere: count("nearElsewhere"),
    oversize: count("nearOversize"),
  };
}

/** From shared memory alone, so that neither threads nor the keeper have to answer. */
export function nearStats(memory: NearMemory, main: NearCounts, totals: NearCounts): NearStats {
  const { state, segments, segmentBytes } = memory;
  const now = sharedClock();
  const [invalidated, provedAt] = [memory.get("invalidated"), memory.get("provedAt")];
  const { usedBytes, wraps } = usageOf(memory);
  const leaseMs = memory.isServing(now) ? (memory.leaseUntil - now) | 0 : 0;
  return {
    state: state === OFF ? "off" : state === STARTING ? "starting" : "on",
    reason: memory.offReason ?? null,
    leaseMs,
    proofAgeMs: provedAt === 0 ? null : (now - provedAt) | 0,
    usedBytes,
    maxBytes: segments * segmentBytes,
    wraps,
    invalidated,
    flushes: memory.epoch >>> 0,
    connects: memory.get("connects"),
    main,
    totals,
    advice: (state === TRACKING && adviceOn(totals, invalidated, wraps > segments)) || null,
  };
}

/** Why every read asks Redis, if it is not only for a moment. */
export function nearProblem({ state, offReason }: NearMemory): string | undefined {
  if (offReason) return `the near cache is off: ${OFF_REASONS[offReason]}`;
  return state === STARTING ? "the near cache is not on yet: its keeper is connecting" : undefined;
}

/** With fewer reads the numbers say nothing. */
const ENOUGH = 1_000;
/** Beside so few reads. Fewer writes may be those that load the keys. */
const MANY_WRITES = 10_000;

/** `isFull`: on average each segment was filled, and then emptied again. */
export function adviceOn(totals: NearCounts, invalidated: number, isFull: boolean): string | undefined {
  const { hits, misses, unleased, fills, outdated, elsewhere, oversize } = totals;
  const hit = hits.own + hits.shared;
  const seldom = "keys are written more often than read from memory: take prefixes that are seldom written";
  if (hit + misses < ENOUGH) return invalidated >= MANY_WRITES ? seldom : undefined;
  if (elsewhere > fills) return "most replies are of another server than the keeper's: is a balancer before Redis?";
  if (oversize * 2 > misses)
    return "most values are too large to be kept (raise nearCache.maxValueBytes), or keys are longer than 1 024 bytes";
  if (invalidated > hit || outdated > fills) return seldom;
  if (hit > misses) return undefined;
  if (unleased * 2 > misses)
    return "mostly nothing may be served: was the keeper away, or late? Raise nearCache.maxStaleMs";
  if (fills + outdated + elsewhere + oversize === 0)
    return "no reply is kept: do reads reject, or may the user not send PTTL? Without it nobody knows when a key ends";
  if (isFull) return "values are dropped before they are read again: raise nearCache.maxBytes";
  return undefined;
}
