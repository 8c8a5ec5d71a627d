import { waitAtMost } from "../core/waiting.js";
import type { ConnectionManager } from "../index.js";

export type LockKeeping = Awaited<ReturnType<ConnectionManager["keepLocks"]>>;
type Kept = NonNullable<ReturnType<LockKeeping["keep"]>>;
type Lease = Parameters<LockKeeping["keep"]>[0];
type OnLost = NonNullable<Lease["onLost"]>;

/** The part of a BullMQ Worker that the locks of its jobs need. */
export interface LockingWorker {
  readonly id: string;
  readonly toKey: (name: string) => string;
  /** Gives the ids of jobs whose locks could not be extended. */
  extendJobLocks(ids: string[], tokens: string[], ttlMs: number): Promise<string[]>;
}

export interface JobLocksOptions {
  readonly worker: LockingWorker;
  readonly ttlMs: number;
  /** Undefined where there is no keeper: then BullMQ renews the locks alone. */
  readonly keeping: LockKeeping | undefined;
  readonly onLost: (jobId: string) => void;
}

/** BullMQ has so long, in shares of the lock's ttl, to say whether a lock is still there. */
const ANSWER_SHARE = 3;

/** The keeper extends the locks of a worker's jobs, from the command that fetches a job until the job was moved. */
export class JobLocks {
  readonly #options: JobLocksOptions;
  readonly #jobs = new Map<string, JobLock>();
  /** The keeper has extended a lock: its Redis is BullMQ's. */
  #isProven = false;
  #isElsewhere = false;

  constructor(options: JobLocksOptions) {
    this.#options = options;
  }

  of(jobId: string | undefined): JobLock | undefined {
    return this.#jobs.get(jobId!);
  }

  /** The worker has fetched the job. Users who fetch by themselves use tokens of their own, and move the job by themselves. */
  fetched(jobId: string, token: string): void {
    if (!token.startsWith(`${this.#options.worker.id}:`)) return;
    this.#jobs.get(jobId)?.end();
    const onEnd = (): void => void (this.#jobs.get(jobId) === lock && this.#jobs.delete(jobId));
    const lock = new JobLock(this, jobId, token, onEnd);
    this.#jobs.set(jobId, lock);
  }

  /** The worker has given its jobs up. */
  close(): void {
    for (const lock of this.#jobs.values()) lock.end();
  }

  keepJob(jobId: string, token: string, onLost: OnLost): Kept | undefined {
    return this.#keep({ kind: "job", key: `${jobId}:lock`, token, onLost });
  }

  /** For the time in which the main thread cannot know which job it has fetched: the keeper looks for it if that takes long. */
  keepFetched(token: string): Kept | undefined {
    return this.#keep({ kind: "fetched", key: "active", token });
  }

  ended(kept: Kept): void {
    this.#isProven ||= kept.isExtended;
    kept.giveUp();
  }

  /** The keeper cannot extend the lock. If BullMQ can, the lock is not lost. */
  async isStillOurs(jobId: string, token: string): Promise<boolean> {
    const { worker, ttlMs, keeping } = this.#options;
    let isOurs = false;
    const asked = worker.extendJobLocks([jobId], [token], ttlMs).then((lost) => (isOurs = lost.length === 0));
    await waitAtMost(ttlMs / ANSWER_SHARE, Promise.allSettled([asked]));
    if (isOurs && !this.#isProven && !this.#isElsewhere) {
      this.#isElsewhere = true;
      keeping?.warn(
        "job locks are renewed by BullMQ alone: the manager's Redis does not have them, or gives no right to them",
      );
    }
    return isOurs;
  }

  lost(jobId: string): void {
    this.#options.onLost(jobId);
  }

  #keep({ key, ...lease }: Omit<Lease, "ttlMs">): Kept | undefined {
    const { worker, ttlMs, keeping } = this.#options;
    return this.#isElsewhere ? undefined : keeping?.keep({ ...lease, key: worker.toKey(key), ttlMs });
  }
}

/** The lock of one job, while this worker has the job. */
export class JobLock {
  /** Whether the job was moved, or is being moved: then its lock is gone, and not lost. */
  isMoved = (): boolean => false;
  readonly #locks: JobLocks;
  readonly #jobId: string;
  readonly #token: string;
  readonly #onEnd: () => void;
  #kept: Kept | undefined;
  #next: Kept | undefined;
  #isEnded = false;

  constructor(locks: JobLocks, jobId: string, token: string, onEnd: () => void) {
    this.#locks = locks;
    this.#jobId = jobId;
    this.#token = token;
    this.#onEnd = onEnd;
    this.#keep();
  }

  /** The task has ended. BullMQ moves the job, and the same command fetches the next job with the same token. */
  settle(): void {
    if (this.#isEnded) return;
    this.isMoved = () => true;
    this.#next ??= this.#locks.keepFetched(this.#token);
  }

  /** BullMQ has moved the job, or has given it up. */
  end(): void {
    this.#isEnded = true;
    if (this.#kept) this.#locks.ended(this.#kept);
    this.#next?.giveUp();
    this.#onEnd();
  }

  #keep(): void {
    this.#kept = this.#locks.keepJob(this.#jobId, this.#token, (loss) => void this.#notExtended(loss));
  }

  /** Never rejects. */
  async #notExtended(loss: string): Promise<void> {
    const wasExtended = this.#kept?.isExtended === true;
    if (this.#kept) this.#locks.ended(this.#kept);
    this.#kept = undefined;
    if (this.#isOver) return;
    const isLost = loss === "gone" && wasExtended;
    if (!isLost && (await this.#locks.isStillOurs(this.#jobId, this.#token))) {
      if (!this.#isOver) this.#keep();
    } else if (!this.#isOver) this.#locks.lost(this.#jobId);
  }

  get #isOver(): boolean {
    return this.#isEnded || this.isMoved();
  }
}
