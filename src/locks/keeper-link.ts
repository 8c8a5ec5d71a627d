import type { MessagePort } from "node:worker_threads";
import { deferred, waitAtMost } from "../core/waiting.js";
import { KeeperLedger } from "./keeper-ledger.js";
import type { FromOwner, KeeperEnd, ToOwner } from "./keeper-protocol.js";
import type { Loss } from "./lock-table.js";

/** The pause until another keeper is asked for. */
const ATTACH_MS = 1_000;

export interface KeeperLinkOptions {
  /** Gives a port to a keeper that is connected. */
  readonly attach: () => Promise<KeeperEnd>;
  /** The memory of this thread's locks: each keeper has to know it. */
  readonly buffers: () => readonly SharedArrayBuffer[];
  /** Whether something is held that a keeper has to extend. */
  readonly isNeeded: () => boolean;
  /** The keeper has found the loss of a lock. */
  readonly onLost: (table: number, record: number) => void;
  /** No keeper could be had, and the next try follows. */
  readonly onFailure: (error: unknown) => void;
}

/** A thread's link to the keeper, and to the next one when that has ended. */
export class KeeperLink {
  readonly #options: KeeperLinkOptions;
  /** By their numbers, the waiters for a turn. */
  readonly #turns = new Map<number, () => void>();
  #port: MessagePort | undefined;
  #ledger: KeeperLedger | undefined;
  #attaching: Promise<void> | undefined;
  #isClosed = false;

  constructor(options: KeeperLinkOptions) {
    this.#options = options;
  }

  get isOpen(): boolean {
    return this.#port !== undefined;
  }

  /** Concurrent callers share one attempt. */
  async open(): Promise<void> {
    if (this.#port) return;
    await (this.#attaching ??= this.#attach().finally(() => (this.#attaching = undefined)));
  }

  /** In the background, until there is a keeper or nothing is held any more. */
  openAgain(): void {
    this.open().catch((error: unknown) => {
      this.#options.onFailure(error);
      setTimeout(() => {
        if (this.#options.isNeeded() && !this.#port && !this.#isClosed) this.openAgain();
      }, ATTACH_MS).unref();
    });
  }

  tell(message: FromOwner): void {
    this.#port?.postMessage(message);
  }

  /** This thread has found a loss before the keeper. */
  countLoss(loss: Loss): void {
    this.#ledger?.lost(loss);
  }

  /** Resolves when the keeper gives the waiter its turn, or after `ms`. Never rejects. */
  turn(message: Extract<FromOwner, { type: "wait" }>, ms: number): { readonly come: Promise<unknown>; stop(): void } {
    const { promise, resolve } = deferred();
    this.#turns.set(message.id, resolve);
    this.tell(message);
    const stop = (): void => {
      this.#turns.delete(message.id);
      resolve(); // ends the timer
    };
    return { come: waitAtMost(ms, promise, 0), stop };
  }

  close(): void {
    this.#isClosed = true;
    this.tell({ type: "closing" });
    this.#port?.close();
  }

  async #attach(): Promise<void> {
    const { port, ledger } = await this.#options.attach();
    if (this.#isClosed) return port.close();
    this.#port = port;
    this.#ledger = new KeeperLedger(ledger);
    port.on("message", (message: ToOwner) => {
      if (message.type === "turn") this.#turns.get(message.id)?.();
      else this.#options.onLost(message.table, message.record);
    });
    port.unref(); // a listener for messages has made it hold the process
    port.once("close", () => this.#gone(port));
    for (const buffer of this.#options.buffers()) this.tell({ type: "table", buffer });
  }

  /** What is held needs another keeper, before its time is over. */
  #gone(port: MessagePort): void {
    if (this.#port !== port) return;
    this.#port = undefined;
    for (const turn of this.#turns.values()) turn(); // they ask the next keeper
    if (!this.#isClosed && this.#options.isNeeded()) this.openAgain();
  }
}
