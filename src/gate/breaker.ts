import { breakerChannel } from "../core/channels.js";
import { abortable, sharedClock } from "../core/time.js";
import { Outage } from "./outage.js";

export type BreakerState = "closed" | "open" | "half-open";

const STATE = 0;
const NEXT_PROBE = 1;
const PROBER = 2;
const LEASE_ENDS = 3;
const OWN_CELLS = 4;
const CLOSED = 0;
const OPEN = 1;

/** Between two probes: random in this range, so that processes which lost a server together do not probe together. */
const PROBE_MIN_MS = 250;
const PROBE_MAX_MS = 750;
/** A wait that nobody ended looks again after this long. */
const LOOK_AGAIN_MS = 250;
/** A prober that shows no sign of life for so long, its loop being blocked, is succeeded. */
const LEASE_MS = 1_000;
const RENEW_MS = 250;
/** Who wants a server probes as soon as it may, and takes up to `LEASE_MS` after a thread was blocked. */
const FORGOTTEN_MS = 5_000;

/** One attempt to connect; the first word on what became of it counts. */
export interface Admission {
  succeeded(): void;
  failed(): void;
  /** Given up before the server could show anything. */
  abandoned(): void;
}

/**
 * One prober for the process: after a refused connect all threads wait while one of them tries, however many clients
 * and pools want to connect. State, next probe, the prober and the end of its lease are in shared memory. A prober renews
 * its lease as long as its loop turns: one that is blocked, by CPU or in a synchronous call, cannot hear what its attempt
 * brought, and must not keep the others, its own helper among them, from finding out.
 */
export class Breaker {
  static readonly CELLS = OWN_CELLS + Outage.CELLS;
  readonly outage: Outage;
  readonly #cells: Int32Array<SharedArrayBuffer>;
  readonly #row: number;

  constructor(cells: Int32Array<SharedArrayBuffer>, row: number) {
    this.#cells = cells;
    this.#row = row;
    this.outage = new Outage(cells.subarray(OWN_CELLS));
  }

  get state(): BreakerState {
    if (this.#load(STATE) === CLOSED) return "closed";
    return this.#load(PROBER) === 0 ? "open" : "half-open";
  }

  /** Ms until the next probe; 0 while one is under way or none is needed. */
  get nextProbeMs(): number {
    return this.state === "open" ? Math.max(this.#msUntil(NEXT_PROBE), 0) : 0;
  }

  /** Resolves when this caller may try: at once, as the one prober, or after somebody's success. */
  async admit(signal?: AbortSignal): Promise<Admission> {
    for (;;) {
      signal?.throwIfAborted();
      const admission = this.tryAdmit();
      if (admission) return admission;
      await this.changed(signal);
    }
  }

  /** As `admit`, for who does not wait. */
  tryAdmit(): Admission | undefined {
    if (this.#load(STATE) === CLOSED) return this.#admission(() => this.#open());
    return this.#becomeProber() ? this.#probe() : undefined;
  }

  /** Resolves when it may be of use to try again. */
  async changed(signal?: AbortSignal): Promise<void> {
    const waitMs = Math.min(Math.max(this.#msUntil(NEXT_PROBE), 1), LOOK_AGAIN_MS);
    // It keeps no process alive: a shutdown that awaited it could be the last thing that the process did.
    await abortable(Promise.resolve(Atomics.waitAsync(this.#cells, STATE, OPEN, waitMs).value), signal);
  }

  /** Open, and nobody has probed for so long that nobody can want this server any more. */
  get isForgotten(): boolean {
    if (this.state === "closed" || this.#msUntil(NEXT_PROBE) > -FORGOTTEN_MS) return false;
    return this.#load(PROBER) === 0 || this.#msUntil(LEASE_ENDS) < -FORGOTTEN_MS;
  }

  /** The server is connected, and of no use: it counts as away until `dismiss`, for as long as somebody says so. */
  hold(): void {
    this.#open();
    if (this.#msUntil(NEXT_PROBE) < 0) this.#scheduleProbe();
  }

  /** Nobody connects to that server any more: none is waited for, and none is to be found away. */
  dismiss(): void {
    this.outage.end();
    this.#close();
  }

  /** A thread that is gone probes no more. */
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

  #probe(): Admission {
    const renewing = setInterval(() => {
      if (this.#load(PROBER) === this.#row + 1) this.#renew();
    }, RENEW_MS).unref();
    return this.#admission(
      () => this.#scheduleProbe(),
      () => clearInterval(renewing),
    );
  }

  #renew(): void {
    this.#store(LEASE_ENDS, sharedClock() + LEASE_MS);
  }

  #admission(onFailed: () => void, onEnd = (): void => {}): Admission {
    let isOpen = true;
    const end = (then: () => void) => () => {
      if (!isOpen) return;
      isOpen = false;
      onEnd();
      then();
      this.sweep(this.#row); // probes no more, if it did
    };
    return { succeeded: end(() => this.#close()), failed: end(onFailed), abandoned: end(() => {}) };
  }

  #close(): void {
    if (Atomics.exchange(this.#cells, STATE, CLOSED) !== OPEN) return;
    Atomics.notify(this.#cells, STATE);
    if (breakerChannel.hasSubscribers) breakerChannel.publish({ event: "closed" });
  }

  /** By an attempt that began while all was well; one that ends late must not push the next probe back. */
  #open(): void {
    if (this.#load(STATE) === OPEN) return;
    this.#scheduleProbe();
    const before = Atomics.exchange(this.#cells, STATE, OPEN);
    if (before !== OPEN && breakerChannel.hasSubscribers) breakerChannel.publish({ event: "opened" });
  }

  #scheduleProbe(): void {
    this.#store(NEXT_PROBE, sharedClock() + PROBE_MIN_MS + Math.random() * (PROBE_MAX_MS - PROBE_MIN_MS));
  }

  #load(cell: number): number {
    return Atomics.load(this.#cells, cell);
  }

  #store(cell: number, value: number): void {
    Atomics.store(this.#cells, cell, value);
  }

  /** The clock wraps every 50 days; a difference of two times does not. */
  #msUntil(cell: number): number {
    return (this.#load(cell) - sharedClock()) | 0;
  }
}
