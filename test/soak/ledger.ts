interface Row {
  acknowledged: number;
  uncertain: number;
}

/** Errors after which the write may have run. */
const UNCERTAIN = new Set(["REPLY_LOST", "COMMAND_TIMEOUT", "THREAD_DIED"]);
/** Errors that promise that it has not run. */
const NOT_SENT = new Set([
  "NOT_SENT",
  "CONNECT_FAILED",
  "ACQUIRE_TIMEOUT",
  "CIRCUIT_OPEN",
  "MAXCLIENTS_SUSPECTED",
  "QUEUE_FULL",
]);

/** One failure is enough; a list of texts with numbers would grow with the run. */
const MOST_KINDS = 50;

/** The outcomes that callers got, to be compared with the server's counts. */
export class Ledger {
  readonly totals = { acknowledged: 0, uncertain: 0, notSent: 0 };
  slowestMs = 0;
  readonly #rows = new Map<string, Row>();
  readonly #unexplained = new Map<string, number>();

  acknowledged(key: string): void {
    this.#row(key).acknowledged++;
    this.totals.acknowledged++;
  }

  failed(key: string, error: unknown): void {
    const { code, message } = error as { code?: string; message?: string };
    const kind = code?.replace("REDTHREAD_", "") ?? "";
    if (UNCERTAIN.has(kind)) {
      this.#row(key).uncertain++;
      this.totals.uncertain++;
    } else if (NOT_SENT.has(kind)) this.totals.notSent++;
    else {
      const told = `${code ?? ""} ${message ?? String(error)}`.trim();
      if (this.#unexplained.size >= MOST_KINDS && !this.#unexplained.has(told)) return; // enough to fail
      this.#unexplained.set(told, (this.#unexplained.get(told) ?? 0) + 1);
    }
  }

  settled(ms: number): void {
    this.slowestMs = Math.max(this.slowestMs, ms);
  }

  keys(): string[] {
    return [...this.#rows.keys()];
  }

  judge(key: string, counter: number): string[] {
    const { acknowledged, uncertain } = this.#row(key);
    if (counter < acknowledged) return [`${key}: lost, ${counter} on the server of ${acknowledged} acknowledged`];
    if (counter <= acknowledged + uncertain) return [];
    return [`${key}: doubled, ${counter} on the server of ${acknowledged} acknowledged and ${uncertain} uncertain`];
  }

  unexplained(): string[] {
    return [...this.#unexplained].map(([told, times]) => `${times} x ${told}`);
  }

  #row(key: string): Row {
    let row = this.#rows.get(key);
    if (!row) this.#rows.set(key, (row = { acknowledged: 0, uncertain: 0 }));
    return row;
  }
}
