import type { MessagePort } from "node:worker_threads";
import { ReplyLostError, ShuttingDownError } from "../core/errors.js";
import { type Deferred, deferred, waitAtMost } from "../core/waiting.js";
import { fromErrorData } from "../link/error-serialization.js";
import { KeeperLedger } from "./keeper-ledger.js";
import type { FromHost, FromOwner, HostEnd, ReplicatedLease, ToHost, ToOwner } from "./keeper-protocol.js";
import type { Acquired } from "./lock-scripts.js";
import type { Loss } from "./lock-table.js";

export interface KeeperLinkOptions {
  /** Reaches the keeper's host. */
  readonly attach: () => Promise<HostEnd>;
  /** The memory of this thread's locks: each keeper has to know it. */
  readonly buffers: () => readonly SharedArrayBuffer[];
  /** Whether something is held that a keeper has to extend. */
  readonly isNeeded: () => boolean;
  /** The keeper has found the loss of a lock. */
  readonly onLost: (table: number, record: number) => void;
  /** No keeper could be had. The host goes on trying as long as something is held. */
  readonly onFailure: (error: unknown) => void;
}

/**
 * A thread's links: to the keeper's host for as long as the thread has locks, and to one keeper after the other. The host
 * starts the next keeper by itself, because a thread that computes could not ask for it.
 */
export class KeeperLink {
  readonly #options: KeeperLinkOptions;
  /** By their numbers, the waiters for a turn. */
  readonly #turns = new Map<number, () => void>();
  /** By their numbers, the acquires that the keeper was asked for. */
  readonly #acquires = new Map<number, Deferred<Acquired>>();
  #acquireId = 0;
  #host: MessagePort | undefined;
  #port: MessagePort | undefined;
  #ledger: KeeperLedger | undefined;
  #opening: Promise<void> | undefined;
  /** The host was asked for a keeper, and has not answered. */
  #asked: Deferred<void> | undefined;
  #isClosed = false;

  constructor(options: KeeperLinkOptions) {
    this.#options = options;
  }

  get isOpen(): boolean {
    return this.#port !== undefined;
  }

  /** Resolves when there is a keeper that is connected. Concurrent callers share one attempt. */
  async open(): Promise<void> {
    if (this.#port) return;
    await (this.#opening ??= this.#open().finally(() => (this.#opening = undefined)));
  }

  /** In the background. */
  openAgain(): void {
    this.open().catch((error: unknown) => this.#options.onFailure(error));
  }

  tell(message: FromOwner): void {
    this.#port?.postMessage(message);
  }

  /** Tells the host as well, for the next keeper. */
  addTable(buffer: SharedArrayBuffer, table: number): void {
    this.#tellHost({ type: "table", table, buffer });
    this.tell({ type: "table", table, buffer });
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

  /**
   * The keeper acquires the lock, and waits for its replicas.
   * @throws as a command; REDTHREAD_REPLY_LOST if the keeper has ended meanwhile
   */
  async acquire(lease: ReplicatedLease): Promise<Acquired> {
    await this.open();
    const id = this.#acquireId++;
    const asked = deferred<Acquired>();
    this.#acquires.set(id, asked);
    this.tell({ type: "acquire", id, lease });
    if (!this.#port || this.#isClosed) this.#loseAcquires();
    return asked.promise.finally(() => this.#acquires.delete(id));
  }

  close(): void {
    this.#isClosed = true;
    this.tell({ type: "closing" });
    this.#port?.close();
    this.#tellHost({ type: "closing" });
    this.#host?.close();
    this.#asked?.reject(new ShuttingDownError("no more locks are taken", { outcome: "not-sent" }));
    this.#loseAcquires();
  }

  #tellHost(message: ToHost): void {
    this.#host?.postMessage(message);
  }

  async #open(): Promise<void> {
    const host = this.#host ?? (await this.#reachHost());
    if (this.#isClosed || this.#port) return; // the host has given a port meanwhile
    this.#asked = deferred();
    this.#tellHost({ type: "wanted" });
    host.ref(); // a caller waits, and nothing else may hold the process
    try {
      await this.#asked.promise;
    } finally {
      this.#asked = undefined;
      host.unref();
    }
  }

  async #reachHost(): Promise<MessagePort> {
    const { port, ledger } = await this.#options.attach();
    if (this.#isClosed) port.close();
    this.#host = port;
    this.#ledger = new KeeperLedger(ledger);
    port.on("message", (message: FromHost) => {
      if (message.type === "keeper") this.#take(message.port);
      else if (message.type === "ended") this.#port?.close();
      else this.#asked?.reject(fromErrorData(message.error));
    });
    port.unref(); // a listener for messages has made it hold the process
    return port;
  }

  #take(port: MessagePort): void {
    if (this.#isClosed) return port.close();
    const last = this.#port;
    this.#port = port;
    port.on("message", (message: ToOwner) => {
      if (message.type === "turn") this.#turns.get(message.id)?.();
      else if (message.type === "acquired") this.#acquires.get(message.id)?.resolve(message.answer);
      else if (message.type === "acquireFailed") this.#acquires.get(message.id)?.reject(fromErrorData(message.error));
      else this.#options.onLost(message.table, message.record);
    });
    port.unref();
    port.once("close", () => this.#gone(port));
    for (const [table, buffer] of this.#options.buffers().entries()) this.tell({ type: "table", table, buffer });
    if (last) this.#lastEnded();
    this.#asked?.resolve();
  }

  /** The host hears of the keeper's end, too. But if this thread hears it first, the host must not find that nothing is wanted. */
  #gone(port: MessagePort): void {
    if (this.#port !== port) return;
    this.#port = undefined;
    this.#lastEnded();
    if (!this.#isClosed && this.#options.isNeeded()) this.openAgain();
  }

  /** The callers ask the next keeper. */
  #lastEnded(): void {
    for (const turn of this.#turns.values()) turn();
    this.#loseAcquires();
  }

  #loseAcquires(): void {
    const what = "the keeper ended before it had told whether the lock was acquired";
    const lost = new ReplyLostError(what, { outcome: "unknown" });
    for (const acquire of this.#acquires.values()) acquire.reject(lost);
  }
}
