import { fingerprint } from "./endpoint.js";
import type { Endpoint } from "./options.js";
import type { Sentinels } from "./sentinels.js";
import { sharedClock } from "./time.js";

/** A failover that the old master survives is told by nobody else: what is written there meanwhile is lost. */
const LOOK_MS = 1_000;
const MASTER = 0;
const NEXT_LOOK = 1;

export interface MasterWatchOptions {
  /** Memory that all threads share; all zeros is its beginning. */
  readonly cells: Int32Array<SharedArrayBuffer>;
  readonly sentinels: Sentinels;
  /** For one look. */
  readonly ms: number;
  /** The sentinels name another master than the one that this connection leads to. */
  readonly onMoved: () => void;
}

/**
 * Notices that the master is another one although the connection to the old one is as good as ever. Once a second one
 * client of the process, in whichever thread, asks the sentinels and leaves the answer where all the others look.
 */
export class MasterWatch {
  static readonly CELLS = 2;
  readonly #options: MasterWatchOptions;
  readonly #life = new AbortController();
  #timer: NodeJS.Timeout | undefined;
  #at = 0;
  #asking: Promise<void> | undefined;

  constructor(options: MasterWatchOptions) {
    this.#options = options;
  }

  /** The connection leads there. */
  start(master: Endpoint): void {
    this.#at = fingerprint(master);
    Atomics.store(this.#options.cells, MASTER, this.#at);
    this.stop();
    this.#timer = setInterval(() => this.#look(), LOOK_MS).unref();
  }

  /** The connection is gone; the next one starts it again. */
  stop(): void {
    clearInterval(this.#timer);
  }

  /** For good; settles when nothing is open. */
  async close(): Promise<void> {
    this.stop();
    this.#life.abort(new Error("the client is closed"));
    await this.#asking;
  }

  #look(): void {
    if (this.#isDue()) this.#asking ??= this.#ask().finally(() => (this.#asking = undefined));
    if (Atomics.load(this.#options.cells, MASTER) !== this.#at) this.#options.onMoved();
  }

  async #ask(): Promise<void> {
    const { cells, sentinels, ms } = this.#options;
    try {
      Atomics.store(cells, MASTER, fingerprint(await sentinels.master(ms, this.#life.signal)));
    } catch {
      // Sentinels that are away say nothing about the master, which serves.
    }
  }

  #isDue(): boolean {
    const { cells } = this.#options;
    const next = Atomics.load(cells, NEXT_LOOK);
    const now = sharedClock();
    if (next !== 0 && ((next - now) | 0) > 0) return false;
    return Atomics.compareExchange(cells, NEXT_LOOK, next, (now + LOOK_MS) | 0) === next;
  }
}
