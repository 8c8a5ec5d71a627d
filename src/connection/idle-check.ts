export interface IdleCheckOptions {
  /** Nothing is under way, and nothing was heard for so long that the peer may be gone. */
  readonly isInDoubt: () => boolean;
  /** Asks the peer; the connection of one that does not answer is ended. Never rejects. */
  readonly ask: () => Promise<boolean>;
  /** The peer is there: what waited may be written. */
  readonly onAnswer: () => void;
}

/**
 * Asks for a PING before a connection that was idle is written to, for a client that cannot be checked when it is handed
 * out: of a Cluster's nodes it is not known which one comes next. What is written to a peer that is gone may have run or not; what
 * waits meanwhile has not.
 */
export class IdleCheck {
  readonly #options: IdleCheckOptions;
  #asking: Promise<void> | undefined;

  constructor(options: IdleCheckOptions) {
    this.#options = options;
  }

  /** Until the answer; undefined while nobody is asked. */
  get underWay(): Promise<void> | undefined {
    return this.#asking;
  }

  /** Whether what is to be written has to wait. */
  isNeeded(): boolean {
    if (this.#asking) return true;
    if (!this.#options.isInDoubt()) return false;
    this.#asking = this.#ask();
    return true;
  }

  async #ask(): Promise<void> {
    const isThere = await this.#options.ask();
    this.#asking = undefined;
    if (isThere) this.#options.onAnswer();
  }
}
