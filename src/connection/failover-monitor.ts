import { sharedClock } from "../core/clock.js";
import { addressOf, fingerprint } from "../config/endpoint.js";
import type { Endpoint } from "../config/options.js";
import type { MasterReport, Sentinels } from "./sentinels.js";

/** Nothing else tells of a failover that the old master survives, and what is written to the old master meanwhile is lost. */
const LOOK_MS = 1_000;
/** A restarted sentinel learns the newest epoch from the others within about 2 s. */
const FORGOTTEN_MS = 5_000;
const MASTER = 0;
const NEXT_LOOK = 1;
const EPOCH = 2;
const CONFIRMED = 3;

export interface FailoverMonitorOptions {
  /** Memory that all threads share; all zeros at first. */
  readonly cells: Int32Array<SharedArrayBuffer>;
  readonly sentinels: Sentinels;
  /** The time of one look. */
  readonly ms: number;
  /** The sentinels name another master than the one that this connection leads to. */
  readonly onMoved: () => void;
}

/**
 * Notices a new master although the connection to the old one works as before. Once a second one client of the
 * process, in whichever thread, asks the sentinels and writes the newest answer to memory that all clients read. A
 * restarted sentinel may answer from before the last failover: its report moves no client.
 */
export class FailoverMonitor {
  readonly #options: FailoverMonitorOptions;
  readonly #life = new AbortController();
  #timer: NodeJS.Timeout | undefined;
  /** The master that this connection leads to. */
  #at = 0;
  /** The master that the process knew when this client began to connect, and what the sentinels reported then. */
  #before = 0;
  #reports: readonly MasterReport[] = [];
  #asking: Promise<void> | undefined;

  constructor(options: FailoverMonitorOptions) {
    this.#options = options;
  }

  /** Where the master may be, the likeliest address first: the process's own knowledge, unless a newer epoch is reported. */
  async candidates(ms: number, signal: AbortSignal): Promise<Endpoint[]> {
    const { cells, sentinels } = this.#options;
    this.#before = Atomics.load(cells, MASTER);
    const epoch = Atomics.load(cells, EPOCH);
    this.#reports = this.#judge(await sentinels.ask(ms, signal));
    const reported = this.#reports.map(({ master }) => master);
    const isNewer = this.#reports.some((report) => report.epoch > epoch);
    const current = [sentinels.known, ...reported].find((one) => one && fingerprint(one) === this.#before);
    const all = current && !isNewer ? [current, ...reported] : reported;
    if (all.length === 0) throw new Error("the sentinels that answer have not heard of the last failover");
    return [...new Map(all.map((one) => [addressOf(one), one])).values()];
  }

  /** The connection leads there. The process learns of it, unless it has learnt of a newer master in between. */
  start({ host, port }: Endpoint): void {
    const { cells, sentinels } = this.#options;
    sentinels.known = { host, port };
    this.#at = fingerprint(sentinels.known);
    const report = this.#reports.find(({ master }) => fingerprint(master) === this.#at);
    const isNews = (report?.epoch ?? 0) > Atomics.load(cells, EPOCH);
    if (report && (isNews || Atomics.compareExchange(cells, MASTER, this.#before, this.#at) === this.#before))
      this.#believe(report);
    this.stop();
    this.#timer = setInterval(() => this.#look(), LOOK_MS).unref();
  }

  /** The connection is gone; the next one starts the monitor again. */
  stop(): void {
    clearInterval(this.#timer);
  }

  /** Stops for good; settles when nothing is open. */
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
      const [report] = this.#judge(await sentinels.ask(ms, this.#life.signal));
      if (report && (report.epoch > Atomics.load(cells, EPOCH) || this.#isRestart(report))) this.#believe(report);
    } catch {
      // Sentinels that cannot be reached say nothing about the master, which serves.
    }
  }

  /** The reports that count: the newest ones, if the process knows nothing newer, and reports of a restart. */
  #judge(reports: readonly MasterReport[]): MasterReport[] {
    const { cells } = this.#options;
    const epoch = Atomics.load(cells, EPOCH);
    const master = Atomics.load(cells, MASTER);
    if (reports.some((report) => report.epoch >= epoch && fingerprint(report.master) === master)) this.#confirm();
    const newest = reports[0]!.epoch;
    return reports.filter((report) => (newest < epoch ? this.#isRestart(report) : report.epoch === newest));
  }

  /** Epochs begin anew where sentinels are set up again: most agree, and for a while no sentinel has confirmed what the process knows. */
  #isRestart({ isAgreed }: MasterReport): boolean {
    const confirmed = Atomics.load(this.#options.cells, CONFIRMED);
    return isAgreed && ((sharedClock() - confirmed) | 0) > FORGOTTEN_MS;
  }

  #believe({ master, epoch }: MasterReport): void {
    const { cells } = this.#options;
    this.#confirm();
    Atomics.store(cells, EPOCH, epoch);
    Atomics.store(cells, MASTER, fingerprint(master));
  }

  #confirm(): void {
    Atomics.store(this.#options.cells, CONFIRMED, sharedClock());
  }

  /** True for one client of the process in each interval. */
  #isDue(): boolean {
    const { cells } = this.#options;
    const next = Atomics.load(cells, NEXT_LOOK);
    const now = sharedClock();
    if (next !== 0 && ((next - now) | 0) > 0) return false;
    return Atomics.compareExchange(cells, NEXT_LOOK, next, (now + LOOK_MS) | 0) === next;
  }
}
