import { addressOf, fingerprint } from "../config/endpoint.js";
import type { Endpoint } from "../config/options.js";
import { sharedClock } from "../core/clock.js";
import type { Sentinels, Word } from "./sentinels.js";

/** A failover that the old master survives is told by nobody else: what is written there meanwhile is lost. */
const LOOK_MS = 1_000;
/** A sentinel that was restarted hears the newest epoch from the others within about 2 s. */
const FORGOTTEN_MS = 5_000;
const MASTER = 0;
const NEXT_LOOK = 1;
const EPOCH = 2;
const CONFIRMED = 3;

export interface FailoverMonitorOptions {
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
 * client of the process, in whichever thread, asks the sentinels and leaves the newest answer where all the others look.
 * The answer of a sentinel that was restarted can be from before the last failover: it moves nobody.
 */
export class FailoverMonitor {
  readonly #options: FailoverMonitorOptions;
  readonly #life = new AbortController();
  #timer: NodeJS.Timeout | undefined;
  #at = 0;
  /** What the process took for the master when this client began to connect. */
  #before = 0;
  /** What the sentinels said then. */
  #words: readonly Word[] = [];
  #asking: Promise<void> | undefined;

  constructor(options: FailoverMonitorOptions) {
    this.#options = options;
  }

  /** Where the master may be, the likeliest first: what the process knows, unless there is a newer epoch, comes first. */
  async candidates(ms: number, signal: AbortSignal): Promise<Endpoint[]> {
    const { cells, sentinels } = this.#options;
    this.#before = Atomics.load(cells, MASTER);
    const epoch = Atomics.load(cells, EPOCH);
    this.#words = this.#judge(await sentinels.ask(ms, signal));
    const told = this.#words.map(({ master }) => master);
    const isNewer = this.#words.some((word) => word.epoch > epoch);
    const current = [sentinels.known, ...told].find((one) => one && fingerprint(one) === this.#before);
    const all = current && !isNewer ? [current, ...told] : told;
    if (all.length === 0) throw new Error("the sentinels that answer have not heard of the last failover");
    return [...new Map(all.map((one) => [addressOf(one), one])).values()];
  }

  /** The connection leads there. The process learns of it, unless it has learnt something newer in between. */
  start({ host, port }: Endpoint): void {
    const { cells, sentinels } = this.#options;
    sentinels.known = { host, port };
    this.#at = fingerprint(sentinels.known);
    const word = this.#words.find(({ master }) => fingerprint(master) === this.#at);
    const isNews = (word?.epoch ?? 0) > Atomics.load(cells, EPOCH);
    if (word && (isNews || Atomics.compareExchange(cells, MASTER, this.#before, this.#at) === this.#before))
      this.#believe(word);
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
      const [word] = this.#judge(await sentinels.ask(ms, this.#life.signal));
      if (word && (word.epoch > Atomics.load(cells, EPOCH) || this.#isNewTruth(word))) this.#believe(word);
    } catch {
      // Sentinels that are away say nothing about the master, which serves.
    }
  }

  /** What counts: the newest, and what is older than the process knows only where that is forgotten. */
  #judge(words: readonly Word[]): Word[] {
    const { cells } = this.#options;
    const epoch = Atomics.load(cells, EPOCH);
    const master = Atomics.load(cells, MASTER);
    if (words.some((word) => word.epoch >= epoch && fingerprint(word.master) === master)) this.#confirm();
    const newest = words[0]!.epoch;
    return words.filter((word) => (newest < epoch ? this.#isNewTruth(word) : word.epoch === newest));
  }

  /** Epochs begin anew where sentinels are set up again: most say so, and for long none has said what the process knows. */
  #isNewTruth({ isAgreed }: Word): boolean {
    const confirmed = Atomics.load(this.#options.cells, CONFIRMED);
    return isAgreed && ((sharedClock() - confirmed) | 0) > FORGOTTEN_MS;
  }

  #believe({ master, epoch }: Word): void {
    const { cells } = this.#options;
    this.#confirm();
    Atomics.store(cells, EPOCH, epoch);
    Atomics.store(cells, MASTER, fingerprint(master));
  }

  #confirm(): void {
    Atomics.store(this.#options.cells, CONFIRMED, sharedClock());
  }

  #isDue(): boolean {
    const { cells } = this.#options;
    const next = Atomics.load(cells, NEXT_LOOK);
    const now = sharedClock();
    if (next !== 0 && ((next - now) | 0) > 0) return false;
    return Atomics.compareExchange(cells, NEXT_LOOK, next, (now + LOOK_MS) | 0) === next;
  }
}
