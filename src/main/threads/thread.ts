import type { EventLoopUtilization } from "node:perf_hooks";
import type { MessagePort, Transferable, Worker } from "node:worker_threads";
import type { ThreadStartFailedError } from "../../core/errors.js";
import { monotonic } from "../../core/clock.js";
import { waitAtMost } from "../../core/waiting.js";
import type { LedgerRow } from "../../link/ledger.js";
import type { FromThread, ToThread } from "../../link/protocol.js";
import type { ThreadHelper } from "./helper.js";

/** What a thread is to Node. */
type Being = Pick<Worker, "threadId" | "performance">;

export type ThreadState = "starting" | "ready" | "closing" | "closed" | "dead";

/** A link whose other end is gone closes by itself; one that does not is not waited for. */
const LINK_CLOSE_MS = 200;
/** A thread that can hear exits within this. */
const EXIT_MS = 50;
/** A share of less time says little. */
const SHARE_MS = 1_000;

/** One thread as the manager sees it: its state and its end of the link. */
export class Thread {
  readonly token: number;
  readonly row: LedgerRow;
  /** Among the threads of its manager. */
  readonly place: number;
  readonly startedAt = monotonic();
  /** Resolves when the thread has confirmed that it closed, or is dead. */
  readonly answered: Promise<void>;
  startFailure: ThreadStartFailedError | undefined;
  /** Why the manager ended it, if it did. */
  endReason: Error | undefined;
  threadId = -1;
  /** Of its synchronous calls, if it makes any; the latest. */
  helper: ThreadHelper | undefined;
  /** Its replacement counts in its place, until it is gone. */
  isRetiring = false;
  /** From the request to close to its confirmation. */
  closeMs: number | undefined;
  #state: ThreadState = "starting";
  #port: MessagePort | undefined;
  #performance: Worker["performance"] | undefined;
  #lastLoop: EventLoopUtilization | undefined;
  #share = 0;
  #shareLoop: EventLoopUtilization | undefined;
  #shareAt = -Infinity;
  #linkClosed: Promise<void> = Promise.resolve();
  #closeMessage: ToThread | undefined;
  #closeAskedAt = 0;
  #posted = 0;
  #onAnswered!: () => void;
  #end: () => void = () => {};

  constructor(token: number, row: LedgerRow, place = 0) {
    this.token = token;
    this.row = row;
    this.place = place;
    this.answered = new Promise((resolve) => (this.#onAnswered = resolve));
  }

  get state(): ThreadState {
    return this.#state;
  }

  get isAskedToClose(): boolean {
    return this.#closeMessage !== undefined;
  }

  /** Node has started it; `end` terminates it. */
  born(end: () => void): void {
    this.#end = end;
  }

  attached({ threadId, performance }: Being, port: MessagePort, receive: (message: FromThread) => void): void {
    this.threadId = threadId;
    this.#performance = performance;
    this.#port = port;
    this.#linkClosed = new Promise((resolve) => port.once("close", resolve));
    port.on("message", receive);
    // Whichever it was: the thread knows what it still runs, and its answer comes after all that it has sent.
    port.on("messageerror", () => this.post({ type: "audit" }));
    if (this.#closeMessage) this.post(this.#closeMessage);
  }

  /** False when it came too late: the thread is being closed or was given up. */
  started(): boolean {
    if (this.#state !== "starting") return false;
    this.#state = "ready";
    return true;
  }

  /** Returns the message's number, for `hasHeard`. @throws DataCloneError if a part of it cannot cross. */
  post(message: ToThread, transferList?: readonly Transferable[]): number {
    if (transferList?.length) this.#port?.postMessage(message, transferList);
    else this.#port?.postMessage(message);
    return ++this.#posted;
  }

  /** Whether the thread has read that message; a thread blocked by CPU reads nothing. */
  hasHeard(message: number): boolean {
    return this.row.get("heard") >= message;
  }

  get hasHeardAll(): boolean {
    return this.hasHeard(this.#posted);
  }

  /** Share of the time since the last call in which its loop was busy, 0 to 1; known also while it is blocked. */
  loopBusy(): number {
    const now = this.#performance?.eventLoopUtilization();
    if (!now) return 1;
    const share = this.#shareSince(this.#lastLoop, now);
    this.#lastLoop = now;
    return share;
  }

  /**
   * Share of the time since the last call, but at least a second, in which its loop was busy, 0 to 1; known also while
   * it is blocked, and the same for all who ask within a second.
   */
  loopShare(): number {
    const now = this.#performance?.eventLoopUtilization();
    if (!now) return 0;
    if (monotonic() - this.#shareAt >= SHARE_MS) {
      this.#share = this.#shareSince(this.#shareLoop, now);
      this.#shareLoop = now;
      this.#shareAt = monotonic();
    }
    return this.#share;
  }

  /** Without an earlier reading: since its loop began to turn. Node would compare `now` with the moment after it. */
  #shareSince(last: EventLoopUtilization | undefined, now: EventLoopUtilization): number {
    const { utilization } = last ? this.#performance!.eventLoopUtilization(now, last) : now;
    // Two clocks are read one after the other; and it is not a number while the loop has not begun to turn.
    return Math.min(Math.max(utilization, 0), 1) || 0;
  }

  /** From now on it gets no more work; what it runs goes on. */
  drain(): void {
    this.#state = "closing";
  }

  /** Idempotent: the first request counts. */
  close(closeMs: number, graceMs: number): void {
    if (this.#closeMessage) return;
    this.#state = "closing";
    this.#closeAskedAt = monotonic();
    this.#closeMessage = { type: "close", closeMs, graceMs };
    const heard = this.post(this.#closeMessage);
    // Blocked in a synchronous call it hears nothing: that call ends, and those behind it, so that it can. Not at once:
    // blocked by CPU it needs the helper for its teardown.
    setTimeout(
      () => {
        if (!this.hasHeard(heard)) this.helper?.post({ type: "end" });
      },
      Math.max(graceMs / 2, closeMs / 8),
    ).unref();
  }

  /** The thread confirmed that it closed everything. */
  closed(): void {
    this.#state = "closed";
    this.closeMs = monotonic() - this.#closeAskedAt;
    this.#onAnswered();
  }

  /**
   * Ends this thread and no other; `reason` becomes the cause of what its tasks reject with. Asked to exit first:
   * terminating a thread in the middle of a native call can take the process with it.
   */
  end(reason?: Error): void {
    this.endReason ??= reason;
    this.post({ type: "exit" });
    setTimeout(() => this.#end(), EXIT_MS).unref();
  }

  /** At once, without asking it to exit first. Idempotent. */
  terminate(): void {
    this.#end();
  }

  /**
   * After the end of `serve`. That news comes by another port than the link and may overtake what the thread said
   * last; a result that was sent is not lost because its thread ended right after.
   */
  async linkClosed(): Promise<void> {
    if (this.#state === "starting" || this.#state === "ready") this.#state = "dead"; // gets no more work
    await waitAtMost(LINK_CLOSE_MS, this.#linkClosed, 0); // then without it
    if (this.#state !== "closed") this.#state = "dead";
    this.#port?.close();
    this.#onAnswered();
  }
}
