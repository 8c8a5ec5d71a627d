import type { Transferable } from "node:worker_threads";
import { ArrayMap } from "../../core/array-map.js";
import type { TaskMessage, Trace, TraceContext } from "../../core/channels.js";
import { Fifo } from "../../core/fifo.js";
import { monotonic } from "../../core/clock.js";
import type { AuditedMessage, ToThread } from "../../link/protocol.js";
import type { Thread } from "../threads/thread.js";
import type { Expected } from "./cost-estimator.js";
import type { TaskRun } from "./task-run.js";

/** More than this of expected loop time is not put into one thread … */
const FILL_MS = 10;
/** … but for one task that computes and one that meanwhile fetches what it needs. */
const MIN_TASKS = 2;

/** Of tasks that wait for nothing so much is sent ahead, in one message and for one waking of the thread … */
const AHEAD_MS = 0.5;
/** … but no more, for what a message brings is the thread's, whatever it turns out to be. */
const AHEAD_TASKS = 256;

/** A thread that does not read for longer than a busy machine makes it wait has its loop blocked by a task. */
const UNREAD_AFTER_MS = 100;

interface Message {
  readonly runs: readonly TaskRun[];
  readonly sentAt: number;
}

/** How many a thread of this concurrency takes of tasks for which this is expected. */
export function tasksTaken({ busyMs, isImmediate }: Expected, concurrency: number): number {
  return isImmediate ? Math.max(concurrency, Math.min(AHEAD_TASKS, Math.floor(AHEAD_MS / busyMs))) : concurrency;
}

/** What one thread has been given. */
export class ThreadWork {
  readonly thread: Thread;
  /** Waits for this thread to be empty, or has it to itself; nothing else is sent there. */
  exclusive: TaskRun | undefined;
  /** Called once nothing runs there and nothing is reserved for it. */
  onIdle: (() => void) | undefined;
  /** Messages with results that have been read here. */
  answers = 0;
  done = 0;
  failed = 0;
  /** Its loop has little to do although it has tasks: they wait for something else than CPU, maybe for each other. */
  isWaiting = false;
  /** What its tasks are expected to keep its loop busy for. */
  #busyMs = 0;
  readonly #concurrency: number;
  readonly #runs = new ArrayMap<TaskRun>();
  #outgoing: TaskRun[] = [];
  /** Of those at least one goes in a message of its own. */
  #isOneAlone = false;
  /** From the first that the thread may not have read. */
  readonly #messages = new Fifo<Message>();
  #firstMessage = 0;
  #isDeaf = false;
  /** Of its tasks, those that may wait for something. */
  #lasting = 0;

  constructor(thread: Thread, concurrency: number) {
    this.thread = thread;
    this.#concurrency = concurrency;
  }

  get size(): number {
    return this.#runs.size;
  }

  /** More results of it are in the port. */
  get isAnswering(): boolean {
    return this.thread.row.get("answered") > this.answers;
  }

  get runs(): Iterable<TaskRun> {
    return this.#runs.values();
  }

  get(id: number): TaskRun | undefined {
    return this.#runs.get(id);
  }

  /** Whether it takes tasks at all. */
  get isOpen(): boolean {
    return this.exclusive === undefined && this.thread.state === "ready";
  }

  /** Whether it takes one more that is expected to keep its loop busy for as long. */
  hasRoom({ busyMs, isImmediate }: Expected): boolean {
    if (!this.isOpen || this.#isDeaf) return false;
    if (this.#runs.size >= this.#concurrency) {
      // They end one after another there, whatever their number; one that waits would keep its place.
      return isImmediate && this.#lasting === 0 && this.#runs.size < AHEAD_TASKS && this.#busyMs + busyMs <= AHEAD_MS;
    }
    return this.#runs.size < MIN_TASKS || this.#busyMs + busyMs <= FILL_MS || this.isWaiting;
  }

  /** By what its loop is expected to do; where nothing is known of the tasks, by their number. */
  isLessThan(other: ThreadWork | undefined): boolean {
    if (!other) return true;
    return this.#busyMs < other.#busyMs || (this.#busyMs === other.#busyMs && this.size < other.size);
  }

  /** Takes a job on; it leaves with the next `post`. */
  give(run: TaskRun, { busyMs, isImmediate }: Expected): void {
    run.thread = this.thread;
    run.busyMs = busyMs;
    run.isImmediate = isImmediate;
    if (!isImmediate) this.#lasting++;
    if (run.trace) this.#note(run.trace);
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

  /** Sends what was given since the last time, in its order; `refuse` hears of each job that cannot cross to a thread. */
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

  /** Jobs whose message the thread could not read, and has not begun: here no longer. */
  takeBack(message: number): TaskRun[] {
    const runs = [...this.#runs.values()].filter((run) => run.message === message);
    for (const run of runs) this.remove(run);
    return runs;
  }

  /** Jobs that their thread has ended, and whose results have not come, nor will: here no longer. */
  takeLost({ running, taken, answered }: AuditedMessage): TaskRun[] {
    this.answers = answered;
    const alive = new Set(running);
    const lost = [...this.#runs.values()].filter(({ id, message }) => ((taken - message) | 0) > 0 && !alive.has(id));
    for (const run of lost) this.remove(run);
    return lost;
  }

  /** When its loop must be taken for blocked, if it reads nothing until then; Infinity where it has read everything. */
  get blockedAt(): number {
    this.#forgetRead();
    return (this.#messages.peek()?.sentAt ?? Infinity) + UNREAD_AFTER_MS;
  }

  /** What the thread has not begun to read, in the order of sending. */
  unread(): TaskRun[] {
    this.#forgetRead();
    return [...this.#messages].flatMap(({ runs }) => runs);
  }

  /**
   * What the thread has not read for so long that its loop must be blocked. It will find that gone, and gets nothing
   * more until it reads again.
   */
  recall(): TaskRun[] {
    this.#forgetRead();
    const recalled: TaskRun[] = [];
    for (let message = this.#messages.peek(); message && isRecallable(message); message = this.#messages.peek()) {
      if (!this.thread.row.claim(this.#firstMessage)) break; // it has just begun to read
      this.#isDeaf = true;
      this.#firstMessage = (this.#firstMessage + 1) | 0;
      this.#messages.shift();
      recalled.push(...message.runs);
    }
    for (const run of recalled) this.remove(run);
    return recalled;
  }

  /** A thread that was found blocked may have read on. */
  listen(): void {
    if (this.#isDeaf && this.thread.hasHeardAll) this.#isDeaf = false;
  }

  #note({ message, elapsedMs }: Trace<TaskMessage>): void {
    message.waitMs = elapsedMs;
    message.threadId = this.thread.threadId;
  }

  #forgetRead(): void {
    const { claimed } = this.thread.row;
    while (this.#firstMessage !== claimed) {
      this.#firstMessage = (this.#firstMessage + 1) | 0;
      this.#messages.shift();
    }
  }

  /** Small and plain ones. They can be cloned; all together they may be too large for a message. */
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

  /** @throws where it cannot be cloned; then nothing of it was sent */
  #send(runs: readonly TaskRun[], tasks: readonly unknown[], transferList?: readonly Transferable[]): void {
    // What has ended would live on with them, and become long-lived. Before it is posted: it counts as read once it is.
    this.#forgetRead();
    const number = (this.#firstMessage + this.#messages.size) | 0;
    let traces: Record<number, TraceContext> | undefined;
    for (const run of runs) {
      run.message = number;
      const context = run.trace?.message.trace;
      if (context) (traces ??= {})[run.id] = { ...context }; // a tracer may set the same one on many tasks
    }
    const message: ToThread = traces ? { type: "tasks", tasks, traces } : { type: "tasks", tasks };
    this.thread.post(message, transferList);
    this.#messages.push({ runs, sentAt: monotonic() });
  }
}

/** Late enough, and neither moved there nor meant to have the thread to itself. */
function isRecallable({ runs, sentAt }: Message): boolean {
  if (monotonic() - sentAt < UNREAD_AFTER_MS) return false;
  return runs.every(({ options }) => !options.transferList && !options.exclusive);
}
