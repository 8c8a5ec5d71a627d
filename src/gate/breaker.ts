import { fingerprint, textFingerprint } from "../config/endpoint.js";
import type { Endpoint } from "../config/options.js";
import { breakerChannel } from "../core/channels.js";
import { randomBetween, sharedClock } from "../core/clock.js";
import { isTold } from "../core/log.js";
import { abortable } from "../core/waiting.js";

export type BreakerState = "closed" | "open" | "half-open";

const STATE = 0;
const NEXT_PROBE = 1;
const PROBER = 2;
const LEASE_ENDS = 3;
const OWN_CELLS = 4;
const OUTAGE_CELLS = 4;
const CLOSED = 0;
const OPEN = 1;

/** The time between two probes is random, so that processes which lost a server together do not probe together. */
const PROBE_MIN_MS = 250;
const PROBE_MAX_MS = 750;
/** A waiter looks again after this long, even if nothing woke it. */
const LOOK_AGAIN_MS = 250;
/** A prober that has not renewed its lease for this long has a blocked loop: another one takes its place. */
const LEASE_MS = 1_000;
const RENEW_MS = 250;
/** A client that wants the server probes when the time comes, or up to `LEASE_MS` later after a blocked thread. */
const FORGOTTEN_MS = 5_000;

/** An attempt to connect that the breaker let pass. Its owner says what became of it; only the first call counts. */
export interface BreakerPass {
  succeeded(): void;
  failed(): void;
  /** The attempt was given up before the server could show anything. */
  abandoned(): void;
}

/**
 * A circuit breaker with one prober for the process: after a refused connect all threads wait while one of them tries,
 * however many clients and pools want to connect. The state, the time of the next probe, the prober and the end of its
 * lease are in shared memory. A prober renews its lease while its loop turns. A blocked prober cannot learn what its
 * attempt brought, and must not keep the other threads (and its own helper) from finding out.
 */
export class Breaker {
  static readonly CELLS = OWN_CELLS + OUTAGE_CELLS;
  readonly outage: Outage;
  readonly #cells: Int32Array<SharedArrayBuffer>;
  readonly #row: number;

  /** @param row This thread's row in the shared tables. */
  constructor(cells: Int32Array<SharedArrayBuffer>, row: number) {
    this.#cells = cells;
    this.#row = row;
    this.outage = new Outage(cells.subarray(OWN_CELLS));
  }

  get state(): BreakerState {
    if (this.#load(STATE) === CLOSED) return "closed";
    return this.#load(PROBER) === 0 ? "open" : "half-open";
  }

  /** Milliseconds until the next probe; 0 while a probe is under way or none is needed. */
  get nextProbeMs(): number {
    return this.state === "open" ? Math.max(this.#msUntil(NEXT_PROBE), 0) : 0;
  }

  /** Gives a pass if the caller may try now: because the breaker is closed, or as the one prober. */
  tryAdmit(): BreakerPass | undefined {
    if (this.#load(STATE) === CLOSED) return this.#pass(() => this.#open());
    return this.#becomeProber() ? this.#probe() : undefined;
  }

  /** Resolves when it may be of use to try again. */
  async changed(signal?: AbortSignal): Promise<void> {
    const waitMs = Math.min(Math.max(this.#msUntil(NEXT_PROBE), 1), LOOK_AGAIN_MS);
    // This wait keeps no process alive: a shutdown that awaited it could be the last thing that the process did.
    await abortable(Promise.resolve(Atomics.waitAsync(this.#cells, STATE, OPEN, waitMs).value), signal);
  }

  /** The breaker is open, and nobody has probed for so long that no client can want this server any more. */
  get isForgotten(): boolean {
    if (this.state === "closed" || this.#msUntil(NEXT_PROBE) > -FORGOTTEN_MS) return false;
    return this.#load(PROBER) === 0 || this.#msUntil(LEASE_ENDS) < -FORGOTTEN_MS;
  }

  /** The server is connected, but of no use: it counts as away until `dismiss`, as long as this is called again. */
  hold(): void {
    this.#open();
    if (this.#msUntil(NEXT_PROBE) < 0) this.#scheduleProbe();
  }

  /** Nobody connects to that server any more: no caller waits for it, and it is not reported as away. */
  dismiss(): void {
    this.outage.end();
    this.#close();
  }

  /** Ends the probe of a thread that is gone. */
  sweep(row: number): void {
    Atomics.compareExchange(this.#cells, PROBER, row + 1, 0);
  }

  #becomeProber(): boolean {
    if (this.#msUntil(NEXT_PROBE) > 0) return false;
    const prober = this.#load(PROBER);
    if (prober !== 0 && this.#msUntil(LEASE_ENDS) > 0) return false;
    if (Atomics.compareExchange(this.#cells, PROBER, prober, this.#row + 1) !== prober) return false;
    this.#renew();
    return true;
  }

  #probe(): BreakerPass {
    const renewing = setInterval(() => {
      if (this.#load(PROBER) === this.#row + 1) this.#renew();
    }, RENEW_MS).unref();
    return this.#pass(() => this.#scheduleProbe(), renewing);
  }

  #renew(): void {
    Atomics.store(this.#cells, LEASE_ENDS, sharedClock() + LEASE_MS);
  }

  #pass(onFailed: () => void, renewing?: NodeJS.Timeout): BreakerPass {
    let isOpen = true;
    const end = (then?: () => void) => () => {
      if (!isOpen) return;
      isOpen = false;
      clearInterval(renewing);
      then?.();
      this.sweep(this.#row); // if this was the prober, it probes no more
    };
    return { succeeded: end(() => this.#close()), failed: end(onFailed), abandoned: end() };
  }

  #close(): void {
    if (Atomics.exchange(this.#cells, STATE, CLOSED) !== OPEN) return;
    Atomics.notify(this.#cells, STATE);
    if (breakerChannel.hasSubscribers) breakerChannel.publish({ event: "closed" });
  }

  /** An attempt that began while all was well may fail late: it must not push the next probe back. */
  #open(): void {
    if (this.#load(STATE) === OPEN) return;
    this.#scheduleProbe();
    const before = Atomics.exchange(this.#cells, STATE, OPEN);
    if (before !== OPEN && breakerChannel.hasSubscribers) breakerChannel.publish({ event: "opened" });
  }

  #scheduleProbe(): void {
    Atomics.store(this.#cells, NEXT_PROBE, sharedClock() + randomBetween(PROBE_MIN_MS, PROBE_MAX_MS));
  }

  #load(cell: number): number {
    return Atomics.load(this.#cells, cell);
  }

  /** The clock wraps every 50 days; the difference of two times does not. */
  #msUntil(cell: number): number {
    return (this.#load(cell) - sharedClock()) | 0;
  }
}

/** If a process meets more addresses than this, some share a breaker: their probers then serve each other. */
const NODE_ROWS = 64;
const CELLS_PER_NODE = 1 + Breaker.CELLS;

/**
 * A breaker for each node of a Cluster, in memory that all threads share: every thread finds the same breaker by the
 * node's address. The memory begins as all zeros.
 */
export class NodeBreakers {
  static readonly CELLS = NODE_ROWS * CELLS_PER_NODE;
  readonly #cells: Int32Array<SharedArrayBuffer>;
  readonly #breakers: readonly Breaker[];

  constructor(cells: Int32Array<SharedArrayBuffer>, row: number) {
    this.#cells = cells;
    this.#breakers = Array.from({ length: NODE_ROWS }, (_, at) => {
      const from = at * CELLS_PER_NODE + 1;
      return new Breaker(cells.subarray(from, from + Breaker.CELLS), row);
    });
  }

  of(node: Endpoint): Breaker {
    const mark = fingerprint(node);
    const first = (mark >>> 0) % NODE_ROWS;
    for (let i = 0; i < NODE_ROWS; i++) {
      const at = (first + i) % NODE_ROWS;
      const found = Atomics.compareExchange(this.#cells, at * CELLS_PER_NODE, 0, mark);
      if (found === 0 || found === mark) return this.#breakers[at]!;
    }
    return this.#breakers[first]!;
  }

  /** The breaker of a node that clients want and cannot reach, if there is any. A node that nobody probes has left. */
  get open(): Breaker | undefined {
    for (const breaker of this.#breakers) if (breaker.isForgotten) breaker.dismiss();
    return this.#breakers.find(({ state }) => state !== "closed");
  }

  /** Ends the probes of a thread that is gone. */
  sweep(row: number): void {
    for (const breaker of this.#breakers) breaker.sweep(row);
  }
}

const FAILURES = 0;
const SINCE = 1;
const REASONS = 2;
const SERVED = 3;

interface OutageNumbers {
  /** Attempts to connect that failed so far, in all threads. */
  readonly attempts: number;
  readonly awayMs: number;
}

/**
 * Decides what the log tells of a server that cannot be reached: one line for the process, however many threads and
 * pools try. It counts in memory that all threads share, which begins as all zeros.
 */
export class Outage {
  readonly #cells: Int32Array<SharedArrayBuffer>;

  constructor(cells: Int32Array<SharedArrayBuffer>) {
    this.#cells = cells;
  }

  /** The numbers for a log line, if one is due: at a new reason, and otherwise more and more seldom. */
  failed(reason: string, tookMs: number): OutageNumbers | undefined {
    const attempts = Atomics.add(this.#cells, FAILURES, 1) + 1;
    if (attempts === 1) Atomics.store(this.#cells, SINCE, (sharedClock() - tookMs) | 0);
    // The reasons of several addresses alternate: each is told once.
    const bit = 1 << (textFingerprint(reason) >>> 27);
    const isKnown = (Atomics.or(this.#cells, REASONS, bit) & bit) !== 0;
    return isKnown && !isTold(attempts) ? undefined : this.#numbers(attempts);
  }

  /** Whether the server has ever served a client of this process. Then it is a Redis, whatever it answers now. */
  get hasServed(): boolean {
    return Atomics.load(this.#cells, SERVED) === 1;
  }

  /** A client is connected. Gives the numbers for a log line if there was an outage. */
  connected(): OutageNumbers | undefined {
    Atomics.store(this.#cells, SERVED, 1);
    return this.end();
  }

  end(): OutageNumbers | undefined {
    const attempts = Atomics.exchange(this.#cells, FAILURES, 0);
    Atomics.store(this.#cells, REASONS, 0);
    return attempts === 0 ? undefined : this.#numbers(attempts);
  }

  #numbers(attempts: number): OutageNumbers {
    return { attempts, awayMs: (sharedClock() - Atomics.load(this.#cells, SINCE)) | 0 };
  }
}
