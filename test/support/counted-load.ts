import { Ledger } from "../soak/ledger.js";
import { eventually } from "./gate.js";

export interface CountedLoadOptions {
  /** A write that adds 1 to its key; false says that it did not and will not run. */
  readonly write: (key: string) => Promise<unknown>;
  /** The number of callers; each of them makes one call after the other. */
  readonly callers: number;
}

/** The server or the Cluster that has the counters. */
interface Counters {
  readonly admin: { mget(keys: string[]): Promise<(string | null)[]> };
}

/**
 * Callers that go on writing, whatever happens. Each call has its own key, so that a write that ran twice cannot hide a
 * lost one.
 */
export class CountedLoad {
  readonly ledger = new Ledger();
  readonly #write: CountedLoadOptions["write"];
  readonly #callers: Promise<void>[];
  #calls = 0;
  #progress = { from: 0, acknowledged: 0 };
  #isOver = false;

  constructor({ write, callers }: CountedLoadOptions) {
    this.#write = write;
    this.#callers = Array.from({ length: callers }, () => this.#call());
  }

  /** Waits until this number of calls that begin from now on were acknowledged. */
  async progress(calls: number, deadlineMs = 15_000): Promise<void> {
    const from = this.#calls;
    this.#progress = { from, acknowledged: 0 };
    await eventually(() => this.#progress.acknowledged >= calls, deadlineMs, `${calls} more writes are acknowledged`);
  }

  /** Ends the load. Rejects if a call has not settled after `deadlineMs`. */
  async stop(deadlineMs = 30_000): Promise<void> {
    this.#isOver = true;
    await eventually(() => Promise.all(this.#callers).then(() => true), deadlineMs, "every call has settled");
  }

  /** The differences between what the callers were told and the server's counters. */
  async problems({ admin }: Counters): Promise<string[]> {
    const keys = Array.from({ length: this.#calls }, (_, i) => keyOf(i + 1));
    const problems = this.ledger.unexplained();
    for (let from = 0; from < keys.length; from += MGET) {
      const some = keys.slice(from, from + MGET);
      const counters = await admin.mget(some);
      problems.push(...some.flatMap((key, i) => this.ledger.judge(key, Number(counters[i] ?? 0))));
    }
    return problems;
  }

  /** The numbers of the load, for a test's diagnostics. */
  summary(): string {
    const { acknowledged, uncertain, notSent } = this.ledger.totals;
    const slowest = Math.round(this.ledger.slowestMs);
    return `${acknowledged} acknowledged, ${uncertain} uncertain, ${notSent} not sent; the slowest took ${slowest} ms`;
  }

  async #call(): Promise<void> {
    while (!this.#isOver) {
      const call = ++this.#calls;
      const key = keyOf(call);
      const calledAt = performance.now();
      try {
        if ((await this.#write(key)) !== false) {
          this.ledger.acknowledged(key);
          if (call > this.#progress.from) this.#progress.acknowledged++;
        }
      } catch (error) {
        this.ledger.failed(key, error);
        // After a failed test the manager is shut down, and the callers would never end.
        if ((error as { code?: string }).code === "REDTHREAD_SHUTTING_DOWN") this.#isOver = true;
      }
      this.ledger.settled(performance.now() - calledAt);
    }
  }
}

const MGET = 1_000;

const keyOf = (call: number): string => `call:${call}`;
