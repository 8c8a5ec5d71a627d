import type { Logger } from "../core/log.js";

export interface LeakWatchOptions {
  /** A lease that is out for longer is told of. */
  readonly warnMs: number;
  readonly logger: Logger;
  readonly now: () => number;
  /** What the lease is of, and the numbers of the moment. */
  readonly describe: () => Readonly<Record<string, unknown>>;
}

/** Tells of each lease that does not come back in time, once, with the stack of its acquire; and when it does after all. */
export class LeakWatch {
  readonly #options: LeakWatchOptions;
  readonly #timers = new Set<NodeJS.Timeout>();

  constructor(options: LeakWatchOptions) {
    this.#options = options;
  }

  /** Begins with a lease that was handed out to who asked at `asked`; the function it gives ends with its return. */
  start(asked: Error | undefined): () => void {
    const { warnMs, logger, now, describe } = this.#options;
    const since = now();
    const heldMs = (): number => Math.round(now() - since);
    let isTold = false;
    const timer = setTimeout(() => {
      isTold = true;
      logger.warn("a lease has not come back", { ...describe(), heldMs: heldMs(), stack: asked?.stack });
    }, warnMs).unref();
    this.#timers.add(timer);
    return () => {
      clearTimeout(timer);
      this.#timers.delete(timer);
      if (isTold) logger.info("a lease came back after all", { ...describe(), heldMs: heldMs() });
    };
  }

  stop(): void {
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
  }
}
