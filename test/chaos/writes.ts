type Told = "acknowledged" | "confirmed" | "unknown" | "not-sent" | "refused";

interface Row {
  readonly told: Told;
  /** The time at which the caller got the outcome. */
  readonly at: number;
  readonly why: string;
}

/** The time in which writes may have been lost with their master. */
export interface LossyTime {
  readonly from: number;
  readonly to: number;
}

/** Errors of this library without an outcome, by what they promise. */
const NOT_SENT =
  /^REDTHREAD_(CONNECT_FAILED|ACQUIRE_TIMEOUT|AUTH_FAILED|QUEUE_FULL|MAXCLIENTS_SUSPECTED|CIRCUIT_OPEN)$/;
const UNKNOWN = /^REDTHREAD_(THREAD_DIED|REPLY_LOST|COMMAND_TIMEOUT)$/;
/** The server's replies when it does not run a command. */
const REFUSED =
  /^(READONLY|CLUSTERDOWN|MOVED|ASK|TRYAGAIN|NOPERM|NOAUTH|WRONGPASS|MASTERDOWN|LOADING|EXECABORT|UNBLOCKED) ?/;

/** The outcome that the caller of each write got. Every write increments its own key by 1. */
export class Writes {
  readonly totals: Record<Told, number> = { acknowledged: 0, confirmed: 0, unknown: 0, "not-sent": 0, refused: 0 };
  /** Failures, by kind. */
  readonly kinds = new Map<string, number>();
  readonly unexplained = new Set<string>();
  readonly #rows = new Map<string, Row>();

  /** With `replicas`, at least one is known to have it. */
  acknowledged(key: string, replicas = 0): void {
    this.#note(key, replicas > 0 ? "confirmed" : "acknowledged", "");
  }

  /** The caller was told that it has not run, as with a WATCH. */
  refused(key: string): void {
    this.#note(key, "refused", "EXEC gave null");
  }

  failed(key: string, error: unknown): void {
    const told = this.#explained(error);
    if (told) this.#note(key, told, kindOf(error));
  }

  failedRead(error: unknown): void {
    this.#explained(error);
  }

  get keys(): string[] {
    return [...this.#rows.keys()];
  }

  /** Compares the outcomes with the servers' counts; of NaN nothing is known. */
  judge(counts: ReadonlyMap<string, number>, lossy: readonly LossyTime[]) {
    const verdict = { twice: [] as string[], wrong: [] as string[], lost: 0 };
    for (const [key, { told, at, why }] of this.#rows) {
      const count = counts.get(key)!;
      const row = `${key} at ${Math.round(at)} ms: told ${told} ${why}, ran ${count} times`;
      if (count > 1) verdict.twice.push(row);
      else if (count === 1 && (told === "not-sent" || told === "refused")) verdict.wrong.push(row);
      else if (count === 0 && told === "confirmed") verdict.wrong.push(row);
      else if (count === 0 && told === "acknowledged") {
        if (lossy.some(({ from, to }) => from <= at && at <= to)) verdict.lost++;
        else verdict.wrong.push(`${row}, and no failover explains it`);
      }
    }
    return verdict;
  }

  #explained(error: unknown): Told | undefined {
    const kind = kindOf(error);
    this.kinds.set(kind, (this.kinds.get(kind) ?? 0) + 1);
    const told = toldBy(error, kind);
    if (!told) this.unexplained.add(`${kind}: ${String((error as Error)?.message ?? error).slice(0, 200)}`);
    return told;
  }

  #note(key: string, told: Told, why: string): void {
    this.totals[told]++;
    this.#rows.set(key, { told, at: performance.now(), why });
  }
}

function kindOf(error: unknown): string {
  const { code, name, message } = error as { code?: string; name?: string; message?: string };
  if (code) return code;
  return /^[A-Z]+(?= )/.exec(message ?? "")?.[0] ?? name ?? "unknown error";
}

function toldBy(error: unknown, kind: string): Told | undefined {
  const { outcome } = error as { outcome?: Told };
  if (outcome) return outcome;
  if (NOT_SENT.test(kind)) return "not-sent";
  if (UNKNOWN.test(kind)) return "unknown";
  return REFUSED.test(kind) ? "refused" : undefined;
}
