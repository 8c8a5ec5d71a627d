import type { MessagePort } from "node:worker_threads";
import { monotonic, randomBetween, sharedClock } from "../core/clock.js";
import { ShuttingDownError, ThreadStartFailedError } from "../core/errors.js";
import { errorCode, type LogFields } from "../core/log.js";
import { toErrorData } from "../link/error-serialization.js";
import { KeeperLedger } from "./keeper-ledger.js";
import type { FromHost, HostEnd, ToHost } from "./keeper-protocol.js";
import { type KeeperEvents, KeeperThread, type KeeperThreadOptions, type StartedKeeper } from "./keeper-thread.js";
import { LockTable, waitingIn } from "./lock-table.js";

/** A keeper that lived for less ended quickly: the next one comes later each time. */
const SETTLED_MS = 10_000;
/** The ceiling of the first pause. It doubles with each keeper that ends quickly. */
const FIRST_PAUSE_MS = 200;
const MAX_PAUSE_MS = 2_000;

type StartKeeper = (ledger: SharedArrayBuffer, events: KeeperEvents) => StartedKeeper;

/** A thread with locks. It keeps its number with each keeper. */
interface Owner {
  readonly id: number;
  /** To the thread. */
  readonly link: MessagePort;
  readonly tables: SharedArrayBuffer[];
  /** It has asked for a keeper that is connected. */
  isWaiting: boolean;
  /** Its locks are closed, or its thread has ended. A keeper still has to release what is left. */
  isGone: boolean;
  /** It closes its locks by itself, and its connections are not ended. */
  isClosing: boolean;
  /** The keeper that knows it. */
  keeper: StartedKeeper | undefined;
  /** The owner's end of its link to that keeper, until that is connected. */
  end: MessagePort | undefined;
}

/**
 * Starts the keeper with the first lock, or with the near cache. After its end it starts the next one, with the locks of all
 * owners, also of owners that compute and hear nothing.
 */
export class KeeperHost {
  readonly #options: KeeperThreadOptions;
  readonly #start: StartKeeper;
  readonly #owners = new Set<Owner>();
  #keeper: StartedKeeper | undefined;
  #isConnected = false;
  #startedAt = 0;
  /** How many keepers have ended one after the other, of which none but the first one had lived for long. */
  #quickEnds = 0;
  /** The next one does not start before. */
  #notBefore = 0;
  #timer: NodeJS.Timeout | undefined;
  #ledger: KeeperLedger | undefined;
  #ids = 0;
  #isClosed = false;
  /** Why no keeper could be connected, as the log has it. */
  #told: string | undefined;

  /** `start` starts a keeper. */
  constructor(
    options: KeeperThreadOptions,
    start: StartKeeper = (ledger, events) => new KeeperThread(options, ledger, events),
  ) {
    this.#options = options;
    this.#start = start;
  }

  /** Starts the keeper of a near cache. */
  begin(): void {
    this.#ledger ??= new KeeperLedger();
    this.#startInTime();
  }

  /** Whether a keeper lives, connected or not. */
  get isKeeping(): boolean {
    return this.#keeper !== undefined;
  }

  /** The numbers of all its keepers, one after the other; undefined before the first one. */
  get ledger(): KeeperLedger | undefined {
    return this.#ledger;
  }

  /** How many callers wait for a lock, in all threads. It is known without a keeper, too. */
  get waiting(): number {
    const tables = [...this.#owners].flatMap((owner) => (owner.isGone ? [] : owner.tables));
    return tables.reduce((sum, buffer) => sum + waitingIn(buffer), 0);
  }

  /**
   * One more thread with locks. It asks for a keeper by its port.
   * @throws REDTHREAD_SHUTTING_DOWN
   */
  async attach(): Promise<HostEnd> {
    if (this.#isClosed) throw closed();
    const { port1: link, port2: port } = new MessageChannel();
    const state = { isWaiting: false, isGone: false, isClosing: false, keeper: undefined, end: undefined };
    const owner: Owner = { id: this.#ids++, link, tables: [], ...state };
    this.#owners.add(owner);
    link.on("message", (message: ToHost) => this.#receive(owner, message));
    link.unref(); // a listener for messages has made it hold the process
    link.once("close", () => this.#gone(owner));
    return { port, ledger: (this.#ledger ??= new KeeperLedger()).buffer };
  }

  async close(ms: number): Promise<void> {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    this.#fail(closed());
    await this.#keeper?.close(ms);
  }

  #receive(owner: Owner, message: ToHost): void {
    switch (message.type) {
      case "table":
        owner.tables.push(message.buffer);
        this.#keeper?.post({ ...message, owner: owner.id });
        break;
      case "closing":
        owner.isClosing = true;
        break;
      case "wanted":
        owner.isWaiting = true;
        if (this.#isClosed) this.#fail(closed());
        else if (this.#keeper) this.#present(owner, this.#keeper);
        else this.#startInTime();
        break;
    }
  }

  /** The owner's port may lie in the queue of a thread that has ended, or there may be no keeper that hears its end. */
  #gone(owner: Owner): void {
    owner.isGone = true;
    owner.isWaiting = false;
    // Until a keeper is connected, the numbers of the owner's connections may have become those of other clients.
    owner.isClosing ||= !this.#isConnected;
    if (this.#keeper) this.#mourn(owner, this.#keeper);
    if (this.#isConnected || !isInUse(owner, sharedClock())) this.#owners.delete(owner);
  }

  #mourn({ id: owner, isClosing, end }: Owner, keeper: StartedKeeper): void {
    keeper.post({ type: "gone", owner, isClosing });
    end?.close();
  }

  /** Now, or when the pause after a keeper that ended quickly is over. */
  #startInTime(): void {
    if (this.#keeper || this.#timer || this.#isClosed) return;
    const leftMs = this.#notBefore - monotonic();
    if (leftMs <= 0) return this.#startNow();
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      if (this.#isNeeded) this.#startInTime();
    }, leftMs).unref();
  }

  /** All in this turn: from now on the keeper needs its host for nothing but the owners' ports. */
  #startNow(): void {
    this.#startedAt = monotonic();
    this.#isConnected = false;
    const events: KeeperEvents = {
      connected: () => this.#connected(),
      failed: (error) => this.#failed(error),
      ended: (cause) => this.#ended(cause),
    };
    try {
      const keeper = (this.#keeper = this.#start(this.#ledger!.buffer, events));
      for (const owner of this.#owners) this.#present(owner, keeper);
    } catch (cause) {
      this.#failed(new ThreadStartFailedError("the keeper could not start", { outcome: "not-sent", cause }));
      this.#ended(cause);
    }
  }

  /** Each keeper gets to know an owner once, whether the owner has asked for it or not. */
  #present(owner: Owner, keeper: StartedKeeper): void {
    if (owner.keeper === keeper) return; // its port is on the way, or comes when the keeper is connected
    owner.keeper = keeper;
    const { port1: port, port2: end } = new MessageChannel();
    owner.end = end;
    keeper.post({ type: "attach", owner: owner.id, port, tables: owner.tables }, [port]);
    if (owner.isGone) this.#mourn(owner, keeper);
    else if (this.#isConnected) this.#give(owner);
  }

  #connected(): void {
    this.#isConnected = true;
    this.#told = undefined;
    for (const owner of this.#owners) {
      if (owner.isGone) this.#owners.delete(owner);
      else this.#give(owner);
    }
  }

  #give(owner: Owner): void {
    const port = owner.end;
    if (!port) return;
    owner.end = undefined;
    owner.isWaiting = false;
    const message: FromHost = { type: "keeper", port };
    owner.link.postMessage(message, [port]);
  }

  /** One line for each reason, because the next keeper mostly fails as this one did. */
  #failed(error: unknown): void {
    if (this.#isClosed) return;
    const { cause } = error as { cause?: unknown };
    const code = errorCode(cause ?? error);
    if (code !== this.#told) this.#log("could not be connected", { code });
    this.#told = code;
    this.#options.near?.setOff("keeper");
    this.#fail(error);
  }

  #log(what: string, fields: LogFields): void {
    const { near, logger } = this.#options;
    logger.error(`the keeper, which extends locks${near ? " and keeps the near cache true" : ""}, ${what}`, fields);
  }

  /** To the owners that wait for a keeper. */
  #fail(error: unknown): void {
    const message: FromHost = { type: "failed", error: toErrorData(error) };
    for (const owner of this.#owners) {
      if (owner.isWaiting) owner.link.postMessage(message);
      owner.isWaiting = false;
    }
  }

  #ended(cause: unknown): void {
    const wasConnected = this.#isConnected;
    if (wasConnected && !this.#isClosed) this.#log("has ended", cause === undefined ? {} : { code: errorCode(cause) });
    this.#keeper = undefined;
    this.#isConnected = false;
    for (const owner of this.#owners) forget(owner);
    for (const field of ["open", "replicasOpen"] as const) this.#ledger!.set(field, 0);
    if (this.#isClosed) return this.#ledger!.set("held", 0);
    const now = monotonic();
    if (wasConnected && now - this.#startedAt >= SETTLED_MS) this.#quickEnds = 0;
    this.#notBefore = this.#quickEnds === 0 ? now : now + pauseMs(this.#quickEnds);
    this.#quickEnds++;
    // After a long life also if nothing is held: an owner that has not heard of the end may begin a lock, and then compute.
    const mayBeNeeded = wasConnected && this.#notBefore === now && this.#owners.size > 0;
    if (mayBeNeeded || this.#isNeeded) this.#startInTime();
  }

  /** Whether a keeper is waited for, could still save a lock, or has a near cache to keep true. */
  get #isNeeded(): boolean {
    if (this.#options.near) return true;
    const now = sharedClock();
    return [...this.#owners].some((owner) => owner.isWaiting || isInUse(owner, now));
  }
}

function isInUse({ tables }: Owner, now: number): boolean {
  return tables.some((buffer) => new LockTable(buffer).isInUse(now));
}

/** Not `backoffMs`: threads that have no keeper would load one export more. */
function pauseMs(quickEnds: number): number {
  return randomBetween(0, Math.min(FIRST_PAUSE_MS * 2 ** (quickEnds - 1), MAX_PAUSE_MS));
}

/** The keeper has ended. */
function forget(owner: Owner): void {
  const message: FromHost = { type: "ended" };
  if (owner.end) owner.end.close();
  else if (owner.keeper) owner.link.postMessage(message);
  owner.keeper = owner.end = undefined;
}

function closed(): ShuttingDownError {
  return new ShuttingDownError("no more locks are taken", { outcome: "not-sent" });
}
