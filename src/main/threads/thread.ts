import type { EventLoopUtilization } from "node:perf_hooks";
import type { MessagePort, Transferable, Worker } from "node:worker_threads";
import { monotonic } from "../../core/clock.js";
import { ThreadDiedError, ThreadStartFailedError } from "../../core/errors.js";
import { errorCode, type LogFields } from "../../core/log.js";
import { waitAtMost } from "../../core/waiting.js";
import type { LedgerRow } from "../../link/ledger.js";
import type { FromHelper, FromThread, ToHelper, ToThread } from "../../link/protocol.js";
import { SyncArea } from "../../link/sync-area.js";

/** The parts of a Worker that we use. */
type WorkerParts = Pick<Worker, "threadId" | "performance">;

/** What a thread says before it has closed. */
export type OpenMessage = Exclude<FromThread, { type: "closed" }>;
/** What a thread says about its tasks, and its log lines. */
export type WorkMessage = Exclude<
  OpenMessage,
  { type: "ready" | "failed" | "loginWanted" | "helper" | "keeperWanted" }
>;
export type LogsMessage = Extract<FromThread, { type: "logs" }>;

export type ThreadState = "starting" | "ready" | "closing" | "closed" | "dead";

/** A link closes by itself once its other end is gone. A link that does not is not waited for. */
const LINK_CLOSE_MS = 200;
/** A thread that reads its messages exits within this time. */
const EXIT_MS = 50;
/** A share that is measured over less time says little. */
const SHARE_MS = 1_000;

/** One thread as the manager sees it: its state and the manager's end of the link. */
export class Thread {
  readonly token: number;
  readonly row: LedgerRow;
  /** Its number among the threads of its manager, from 0. A replacement takes over the number. */
  readonly place: number;
  readonly startedAt = monotonic();
  /** Resolves when the thread has confirmed that it closed, or is dead. */
  readonly answered: Promise<void>;
  startFailure: ThreadStartFailedError | undefined;
  /** Why the manager ended it. */
  endReason: Error | undefined;
  threadId = -1;
  /** The latest helper for its synchronous calls. */
  helper: ThreadHelper | undefined;
  /** Its replacement has its place; the thread serves until the replacement does. */
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
  #terminate: () => void = () => {};

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

  /** Node has started the thread. */
  spawned(terminate: () => void): void {
    this.#terminate = terminate;
  }

  /** The thread has sent its end of the link. */
  attached({ threadId, performance }: WorkerParts, port: MessagePort, receive: (message: OpenMessage) => void): void {
    this.threadId = threadId;
    this.#performance = performance;
    this.#port = port;
    this.#linkClosed = new Promise((resolve) => port.once("close", resolve));
    port.on("message", (message: FromThread) => {
      if (message.type === "logs") this.row.add("logsTaken", message.records.length + message.dropped);
      if (message.type === "closed") this.closed();
      else receive(message);
    });
    // Its content is lost. The thread knows what it still runs, and its answer comes after everything it has sent.
    port.on("messageerror", () => this.post({ type: "audit" }));
    if (this.#closeMessage) this.post(this.#closeMessage);
  }

  /** The tasks module is loaded. False when that came too late: the thread is being closed or was given up. */
  becameReady(): boolean {
    if (this.#state !== "starting") return false;
    this.#state = "ready";
    return true;
  }

  /** Returns the message's number, for `hasRead`. @throws DataCloneError if a part of it cannot cross. */
  post(message: ToThread, transferList?: readonly Transferable[]): number {
    if (transferList?.length) this.#port?.postMessage(message, transferList);
    else this.#port?.postMessage(message);
    return ++this.#posted;
  }

  /** Whether the thread has read that message. A thread blocked by CPU reads nothing. */
  hasRead(message: number): boolean {
    return this.row.get("messagesRead") >= message;
  }

  get hasReadAll(): boolean {
    return this.hasRead(this.#posted);
  }

  /** Share of the time since the last call in which its loop was busy, 0 to 1. Known also while it is blocked. */
  loopBusy(): number {
    const now = this.#performance?.eventLoopUtilization();
    if (!now) return 1;
    const share = this.#shareSince(this.#lastLoop, now);
    this.#lastLoop = now;
    return share;
  }

  /**
   * Share of the time since the last call, but at least a second, in which its loop was busy, 0 to 1. All callers within
   * a second get the same number. Known also while the thread is blocked.
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
    // Two clocks are read one after the other, and the result is NaN while the loop has not begun to turn.
    return Math.min(Math.max(utilization, 0), 1) || 0;
  }

  /** The thread gets no more work. Its running tasks go on. */
  drain(): void {
    this.#state = "closing";
  }

  /** Asks the thread to close. Idempotent: the first request counts. */
  close(closeMs: number, graceMs: number): void {
    if (this.#closeMessage) return;
    this.#state = "closing";
    this.#closeAskedAt = monotonic();
    this.#closeMessage = { type: "close", closeMs, graceMs };
    const message = this.post(this.#closeMessage);
    // A thread blocked in a synchronous call cannot read this until its helper ends that call and the calls behind it.
    // Not at once: a thread blocked by CPU needs the helper for its teardown.
    setTimeout(
      () => {
        if (!this.hasRead(message)) this.helper?.post({ type: "end" });
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
   * Ends this thread and no other; `reason` becomes the cause of its tasks' errors. The thread is asked to exit first,
   * because terminating it in the middle of a native call can take the process with it.
   */
  end(reason?: Error): void {
    this.endReason ??= reason;
    this.post({ type: "exit" });
    setTimeout(() => this.#terminate(), EXIT_MS).unref();
  }

  /** Ends the thread at once, also in an endless loop. Idempotent. */
  terminate(): void {
    this.#terminate();
  }

  /**
   * Resolves after the last message of a thread whose `serve` has ended. The news of the end comes by another port and may
   * overtake the link's messages. A result that was sent is not lost because its thread ended right after.
   */
  async linkClosed(): Promise<void> {
    if (this.#state === "starting" || this.#state === "ready") this.#state = "dead"; // gets no more work
    await waitAtMost(LINK_CLOSE_MS, this.#linkClosed, 0);
    if (this.#state !== "closed") this.#state = "dead";
    this.#port?.close();
    this.#onAnswered();
  }
}

/** A thread's helper for synchronous calls as the manager sees it: it gets logins, and releases what it held at its end. */
export class ThreadHelper {
  readonly #port: MessagePort;
  readonly #area: SyncArea;
  readonly #release: () => void;
  #isGone = false;

  /** `release` is called once, before the thread may start another helper. */
  constructor(
    port: MessagePort,
    area: SharedArrayBuffer,
    receive: (message: FromHelper) => void,
    release: (helper: ThreadHelper) => void,
  ) {
    this.#port = port;
    this.#area = new SyncArea(area);
    this.#release = () => release(this);
    port.on("message", receive);
    port.once("close", () => this.gone());
  }

  post(message: ToHelper): void {
    this.#port.postMessage(message);
  }

  /** Its end of the link is closed, or its thread is dead, which a helper does not outlive. Idempotent. */
  gone(): void {
    if (this.#isGone) return;
    this.#isGone = true;
    this.#release();
    this.#area.markGone();
    this.#port.close();
  }
}

/** The end by `process.exit()`. Piscina has the exit code only in the text of an error. */
export class ThreadExit extends Error {
  readonly code = "THREAD_EXITED";
  readonly exitCode: number;

  constructor(exitCode: number) {
    super(`it exited with code ${exitCode}`);
    this.exitCode = exitCode;
  }
}

function exitCodeOf(reason: unknown): { readonly exitCode?: number } {
  return reason instanceof ThreadExit ? { exitCode: reason.exitCode } : {};
}

/** The log fields of a thread's end. */
export function endOf({ threadId }: Thread, reason: unknown): LogFields {
  return { threadId, code: errorCode(reason), ...exitCodeOf(reason) };
}

export function startFailed(cause: unknown): ThreadStartFailedError {
  const { message = String(cause), permission } = Object(cause) as { message?: string; permission?: string };
  const why = permission === "WorkerThreads" ? "Node's permission model asks for --allow-worker" : message;
  return new ThreadStartFailedError(`a thread could not start: ${why}`, { cause, ...exitCodeOf(cause) });
}

export function threadDied(thread: Thread, reason: unknown): ThreadDiedError {
  const why = reason instanceof Error ? reason.message : "it was closed";
  return new ThreadDiedError(`thread ${thread.threadId} ended under the task: ${why}`, {
    outcome: "unknown",
    threadId: thread.threadId,
    ...exitCodeOf(reason),
    cause: reason,
  });
}
