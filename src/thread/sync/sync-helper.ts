import {
  isMainThread,
  MessageChannel,
  type MessagePort,
  receiveMessageOnPort,
  threadId,
  type TransferListItem,
  Worker,
} from "node:worker_threads";
import {
  CommandTimeoutError,
  ConfigInvalidError,
  ReplyLostError,
  ShuttingDownError,
  ThreadStartFailedError,
} from "../../core/errors.js";
import { permissionFlags, threadFile } from "../../core/packages.js";
import { waitAtMost } from "../../core/waiting.js";
import type { HelperData, ToHelperFromCaller } from "../../link/protocol.js";
import { BY_PORT, SyncArea, type SyncKind } from "../../link/sync-area.js";
import { crossing, readSync, SyncWriter } from "../../link/sync-codec.js";
import { adoptHelper, currentHelper, managed, type OpenHelper } from "./sync-registry.js";

/** Time between the end of a helper and the manager's mark that nothing is left of it. */
const GONE_MS = 2_000;
/** A call that takes longer may wait for a permit that this thread's own handshakes hold. */
const GIVE_WAY_MS = 250;

/**
 * The thread that does the I/O while this thread is blocked in its synchronous calls. It is this thread's child, so that Node
 * ends it and its sockets before this thread's own end is over.
 */
export class SyncHelper implements OpenHelper {
  readonly #area = new SyncArea(SyncArea.buffer());
  readonly #writer = new SyncWriter(this.#area.data);
  readonly #replies: MessagePort;
  readonly #worker: Worker;
  readonly #ended: Promise<void>;
  /** It did not answer in time, or is being closed. */
  #isLost = false;
  #giveWay: (() => void) | undefined;

  /** This thread's helper, started if there is none. Its first request waits for the start. */
  static current(): SyncHelper {
    if (isMainThread) {
      const why = "a synchronous call would block the main thread, and every socket and timer of the process with it";
      throw new ConfigInvalidError(`redthread/sync is for worker threads: ${why}; use getRedis() there`, {
        problems: ["redthread/sync is for worker threads"],
      });
    }
    const current = currentHelper() as SyncHelper | "closed" | undefined;
    if (current === "closed") throw new ShuttingDownError("this thread closes its clients", { outcome: "not-sent" });
    if (current && !current.isGone) return current;
    if (current) current.awaitEnd();
    const helper = new SyncHelper();
    adoptHelper(helper);
    return helper;
  }

  private constructor() {
    const file = threadFile("sync-entry.js");
    const { port1: replies, port2: helperReplies } = new MessageChannel();
    const given = managed();
    const data: HelperData = { area: this.#area.buffer, replies: helperReplies, threadId };
    const transferList: TransferListItem[] = [helperReplies];
    this.#replies = replies;
    replies.unref();
    if (given) {
      const { onHelper, giveWay, ...shared } = given;
      this.#giveWay = giveWay;
      const { port1: toHelper, port2: toManager } = new MessageChannel();
      Object.assign(data, { managed: { ...shared, port: toManager } });
      transferList.push(toManager);
      onHelper(toHelper, this.#area.buffer);
    }
    // Nothing else of execArgv: what a process preloads, as tsx or a tracer, is for the user's code and only costs time here.
    this.#worker = new Worker(file, { workerData: data, transferList, execArgv: permissionFlags() });
    this.#worker.unref(); // a thread that is done may end
    this.#worker.on("error", () => {}); // its exit tells enough
    this.#ended = new Promise((resolve) => {
      this.#worker.once("exit", () => {
        // A manager marks it itself, after it has taken back what the helper held.
        if (!given) this.#area.markGone();
        resolve();
      });
    });
  }

  get isGone(): boolean {
    return this.#isLost || this.#area.isGone;
  }

  /**
   * Blocks this thread until the helper has answered. The helper keeps the deadlines; a helper that has not answered after
   * `guardMs` counts as dead or blocked, and is ended.
   */
  ask(kind: SyncKind, client: number, request: unknown, guardMs: number): unknown {
    const written = crossing("request", () => this.#writer.write(request)); // throws before anything is sent
    const isLarge = typeof written !== "number";
    const number = this.#area.ask(kind, client, isLarge ? BY_PORT : written);
    if (isLarge) this.#post(written, [written.buffer]);
    else if (!this.#area.isListening()) this.#post(null);
    const answer = this.#waitForAnswer(number, guardMs);
    if (!answer) throw this.#lost(kind, guardMs);
    const value = crossing("reply", () => readSync(answer.bytes === BY_PORT ? this.#largeReply() : this.#area.data));
    if (answer.isError) throw value;
    return value;
  }

  async close(ms: number): Promise<void> {
    this.#isLost = true; // it takes no requests any more
    this.#worker.ref();
    this.#post({ closeMs: ms });
    if (!(await waitAtMost(ms, this.#ended))) await this.#worker.terminate();
    this.#replies.close();
  }

  /** The next helper takes the same row of the gate, so that what this helper held must be free first. */
  awaitEnd(): void {
    if (!managed() || this.#area.waitUntilGone(GONE_MS)) return;
    const what = "the former helper thread has not ended, and its connection still counts";
    throw new ThreadStartFailedError(`no helper thread for synchronous calls: ${what}`, { outcome: "not-sent" });
  }

  #waitForAnswer(number: number, guardMs: number): ReturnType<SyncArea["waitForAnswer"]> {
    const quickMs = Math.min(GIVE_WAY_MS, guardMs);
    const answer = this.#area.waitForAnswer(number, quickMs);
    if (answer || this.#area.isGone) return answer;
    this.#giveWay?.();
    return this.#area.waitForAnswer(number, guardMs - quickMs);
  }

  #post(message: ToHelperFromCaller, transferList: TransferListItem[] = []): void {
    this.#worker.postMessage(message, transferList);
  }

  #largeReply(): Buffer {
    const { message } = receiveMessageOnPort(this.#replies) as { message: Uint8Array<ArrayBuffer> };
    return Buffer.from(message.buffer);
  }

  #lost(kind: SyncKind, guardMs: number): Error {
    const isGone = this.#area.isGone;
    this.#isLost = true;
    void this.#worker.terminate();
    if (kind === "open") {
      const what = isGone ? "ended at its start" : `was not up within ${guardMs} ms`;
      return new ThreadStartFailedError(`the helper thread for synchronous calls ${what}`, { outcome: "not-sent" });
    }
    if (isGone) {
      const what = "the helper thread ended before it had answered: the command may have run";
      return new ReplyLostError(what, { outcome: "unknown" });
    }
    const what = `the helper thread gave no answer within ${guardMs} ms and was ended: the command may have run`;
    return new CommandTimeoutError(what, { outcome: "unknown", guardMs });
  }
}
