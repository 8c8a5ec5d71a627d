/** Names whoever answered. */
export type Call = () => Promise<string>;

const PAUSE_MS = 10;

/** Callers that go on calling, whatever happens, and who has answered them. */
export class Demand {
  readonly #answeredBy = new Set<string>();
  #onAnswer: (() => void) | undefined;
  #isOver = false;

  constructor(calls: readonly Call[]) {
    for (const call of calls) void this.#call(call);
  }

  /** From now until so many different ones have answered; Infinity if not by `capMs`. */
  async msUntilAnswered(by: number, capMs: number): Promise<number> {
    const startedAt = performance.now();
    this.#answeredBy.clear();
    let timer: NodeJS.Timeout | undefined;
    const isComplete = await new Promise<boolean>((resolve) => {
      this.#onAnswer = () => this.#answeredBy.size >= by && resolve(true);
      timer = setTimeout(() => resolve(false), capMs);
    });
    clearTimeout(timer);
    return isComplete ? performance.now() - startedAt : Infinity;
  }

  /** No call begins any more; one that never settles is left to whoever closes its client. */
  stop(): void {
    this.#isOver = true;
  }

  async #call(call: Call): Promise<void> {
    while (!this.#isOver) {
      try {
        this.#answeredBy.add(await call());
        this.#onAnswer?.();
      } catch {
        // An outage is what is measured here: whoever called calls again, but not in a tight loop.
        await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
      }
    }
  }
}
