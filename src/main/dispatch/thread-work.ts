import type { Transferable } from "node:worker_threads";
import { ArrayMap } from "../../core/array-map.js";
import type { TraceContext } from "../../core/channels.js";
import { Fifo } from "../../core/fifo.js";
import { monotonic } from "../../core/clock.js";
import type { AuditedMessage, ToThread } from "../../link/protocol.js";
import type { Thread } from "../threads/thread.js";
import type { Expected } from "./cost-estimator.js";
import type { TaskRun } from "./task-run.js";

/** A thread is not given tasks for more than this much expected loop time … */
const FILL_MS = 10;
/** … except that it always has one task that computes and one that meanwhile fetches what it needs. */
const MIN_TASKS = 2;

/** Of immediate tasks this much expected loop time is sent ahead, in one message and with one waking of the thread … */
const AHEAD_MS = 0.5;
/** … but not more of them, because the thread must run what a message brings, whatever the tasks turn out to be. */
const AHEAD_TASKS = 256;

/** A busy machine makes a thread wait for less than this. A thread that does not read for longer has a blocked loop. */
const UNREAD_AFTER_MS = 100;

interface Message {
  readonly runs: readonly TaskRun[];
  readonly sentAt: number;
}

/** How many such tasks a thread of this concurrency takes before it has ended any. */
export function tasksTaken({ busyMs, isImmediate }: Expected, concurrency: number): number {
  return isImmediate ? Math.max(concurrency, Math.min(AHEAD_TASKS, Math.floor(AHEAD_MS / busyMs))) : concurrency;
}

/** The tasks that one thread has been given, from `give` to `remove`, and the messages that bring them there. */
export class ThreadWork {
  readonly thread: Thread;
  /** The exclusive task that the thread is reserved for: it waits until no other task runs, or runs alone. */
  exclusive: TaskRun | undefined;
  /** Called when no task runs in the thread and the thread is not reserved. */
  onIdle: (() => void) | undefined;
  /** How many of the thread's messages with results have been read here. */
  answers = 0;
  done = 0;
  failed = 0;
  /** Its loop has little to do although it has tasks: they wait for something else than CPU, maybe for each other. */
  isWaiting = false;
  /** How long its tasks are expected to keep its loop busy. */
  #busyMs = 0;
  readonly #concurrency: number;
  readonly #runs = new ArrayMap<TaskRun>();
  #outgoing: TaskRun[] = [];
  /** At least one outgoing run needs a message of its own. */
  #isOneAlone = false;
  /** The messages that the thread may not have read. */
  readonly #messages = new Fifo<Message>();
  /** The number of the first of them. */
  #firstMessage = 0;
  /** The thread was found blocked, and gets nothing until it has read everything. */
  #isBlocked = false;
  /** How many of its tasks are not immediate. */
  #lasting = 0;

  constructor(thread: Thread, concurrency: number) {
    this.thread = thread;
    this.#concurrency = concurrency;
  }

  get size(): number {
    return this.#runs.size;
  }

  /** Whether more of its results are in the port. */
  get isAnswering(): boolean {
    return this.thread.row.get("answered") > this.answers;
  }

  get runs(): Iterable<TaskRun> {
    return this.#runs.values();
  }

  get(id: number): TaskRun | undefined {
    return this.#runs.get(id);
  }

  /** Whether the thread takes tasks at all. */
  get isOpen(): boolean {
    return this.exclusive === undefined && this.thread.state === "ready";
  }

  /** Whether the thread takes one more task with this expectation. */
  hasRoom({ busyMs, isImmediate }: Expected): boolean {
    if (!this.isOpen || this.#isBlocked) return false;
    if (this.#runs.size >= this.#concurrency) {
      // Immediate tasks end one after another, whatever their number. A task that waits would keep its place.
      return isImmediate && this.#lasting === 0 && this.#runs.size < AHEAD_TASKS && this.#busyMs + busyMs <= AHEAD_MS;
    }
    return this.#runs.size < MIN_TASKS || this.#busyMs + busyMs <= FILL_MS || this.isWaiting;
  }

  /** Compares the expected loop time, and the number of tasks where that is equal. */
  isLessThan(other: ThreadWork | undefined): boolean {
    if (!other) return true;
    return this.#busyMs < other.#busyMs || (this.#busyMs === other.#busyMs && this.size < other.size);
  }

  /** Takes a run, which is sent by the next `post`. */
  give(run: TaskRun, { busyMs, isImmediate }: Expected): void {
    run.thread = this.thread;
    run.busyMs = busyMs;
    run.isImmediate = isImmediate;
    if (!isImmediate) this.#lasting++;
    if (run.trace) {
      run.trace.message.waitMs = run.trace.elapsedMs;
      run.trace.message.threadId = this.thread.threadId;
    }
    this.#busyMs += busyMs;
    this.#runs.add(run.id, run);
    this.#outgoing.push(run);
    if (run.isAlone) this.#isOneAlone = true;
  }

  remove(run: TaskRun): void {
    this.#runs.delete(run.id);
    if (!run.isImmediate) this.#lasting--;
    this.#busyMs = this.#runs.size === 0 ? 0 : this.#busyMs - run.busyMs; // no residue of rounding
    if (this.exclusive === run) this.exclusive = undefined;
  }

  /** Sends the runs that were given since the last call, in their order. Calls `refuse` for each that cannot be cloned. */
  post(refuse: (run: TaskRun, cause: unknown) => void): void {
    const runs = this.#outgoing;
    if (runs.length === 0) return;
    this.#outgoing = [];
    if (!this.#isOneAlone) return this.#sendTogether(runs, refuse);
    this.#isOneAlone = false;
    let together: TaskRun[] = [];
    for (const run of runs) {
      if (!run.isAlone) together.push(run);
      else {
        this.#sendTogether(together, refuse);
        together = [];
        this.#sendAlone(run, refuse);
      }
    }
    this.#sendTogether(together, refuse);
  }

  /** Removes and returns the runs of a message that the thread could not read. None of them has begun. */
  takeBack(message: number): TaskRun[] {
    const runs = [...this.#runs.values()].filter((run) => run.message === message);
    for (const run of runs) this.remove(run);
    return runs;
  }

  /** Removes and returns the runs that the thread has ended and whose results are lost. */
  takeLost({ running, taken, answered }: AuditedMessage): TaskRun[] {
    this.answers = answered;
    const alive = new Set(running);
    const lost = [...this.#runs.values()].filter(({ id, message }) => ((taken - message) | 0) > 0 && !alive.has(id));
    for (const run of lost) this.remove(run);
    return lost;
  }

  /** When the loop counts as blocked if the thread reads nothing until then. Infinity where it has read everything. */
  get blockedAt(): number {
    this.#forgetRead();
    return (this.#messages.peek()?.sentAt ?? Infinity) + UNREAD_AFTER_MS;
  }

  /** The runs that the thread has not begun to read, in the order of sending. */
  unread(): TaskRun[] {
    this.#forgetRead();
    return [...this.#messages].flatMap(({ runs }) => runs);
  }

  /**
   * Removes and returns the runs that the thread has not read for so long that its loop must be blocked. It gets nothing
   * more until it reads again, and then skips these messages.
   */
  recall(): TaskRun[] {
    this.#forgetRead();
    const recalled: TaskRun[] = [];
    for (let message = this.#messages.peek(); message && isRecallable(message); message = this.#messages.peek()) {
      if (!this.thread.row.claim(this.#firstMessage)) break; // it has just begun to read
      this.#isBlocked = true;
      this.#firstMessage = (this.#firstMessage + 1) | 0;
      this.#messages.shift();
      recalled.push(...message.runs);
    }
    for (const run of recalled) this.remove(run);
    return recalled;
  }

  /** A thread that was found blocked may have read on: then it gets tasks again. */
  checkBlocked(): void {
    if (this.#isBlocked && this.thread.hasReadAll) this.#isBlocked = false;
  }

  #forgetRead(): void {
    const { claimed } = this.thread.row;
    while (this.#firstMessage !== claimed) {
      this.#firstMessage = (this.#firstMessage + 1) | 0;
      this.#messages.shift();
    }
  }

  /** Sends small and plain inputs. Each can be cloned, but all together may be too large for one message. */
  #sendTogether(runs: readonly TaskRun[], refuse: (run: TaskRun, cause: unknown) => void): void {
    if (runs.length === 0) return;
    const tasks: unknown[] = [];
    for (const run of runs) run.addTo(tasks);
    try {
      this.#send(runs, tasks);
    } catch {
      for (const run of runs) this.#sendAlone(run, refuse);
    }
  }

  #sendAlone(run: TaskRun, refuse: (run: TaskRun, cause: unknown) => void): void {
    try {
      const { entries, transferList } = run.cross();
      this.#send([run], entries, transferList);
    } catch (cause) {
      this.remove(run);
      refuse(run, cause);
    }
  }

  /** @throws where a value cannot be cloned; then nothing was sent */
  #send(runs: readonly TaskRun[], tasks: readonly unknown[], transferList?: readonly Transferable[]): void {
    // Runs that have ended would live on with their messages. Before the post, because the thread may claim it at once.
    this.#forgetRead();
    const number = (this.#firstMessage + this.#messages.size) | 0;
    let traces: Record<number, TraceContext> | undefined;
    for (const run of runs) {
      run.message = number;
      const context = run.trace?.message.trace;
      if (context) (traces ??= {})[run.id] = { ...context }; // a tracer may set the same object on many tasks
    }
    const message: ToThread = traces ? { type: "tasks", tasks, traces } : { type: "tasks", tasks };
    this.thread.post(message, transferList);
    this.#messages.push({ runs, sentAt: monotonic() });
  }
}

/** Whether the message has waited for long enough, and brings neither moved buffers nor an exclusive task. */
function isRecallable({ runs, sentAt }: Message): boolean {
  if (monotonic() - sentAt < UNREAD_AFTER_MS) return false;
  return runs.every(({ options }) => !options.transferList && !options.exclusive);
}
