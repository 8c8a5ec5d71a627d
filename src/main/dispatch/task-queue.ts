import { Fifo } from "../../core/fifo.js";
import type { Job } from "./task-run.js";

/**
 * What waits for a thread: the highest priority first, among equals the names of tasks in turn, of one name the oldest.
 * So a flood of one task does not keep the others waiting. Jobs whose callers gave up are passed over.
 */
export class TaskQueue {
  /** Highest first. */
  readonly #levels: Level[] = [];

  push(job: Job): void {
    this.#level(job.priority).push(job);
  }

  /** Before all others of its name. */
  unshift(job: Job): void {
    this.#level(job.priority).unshift(job);
  }

  /** The next, which stays until `shift`. */
  peek(): Job | undefined {
    for (;;) {
      const level = this.#levels[0];
      if (!level) return undefined;
      const job = level.peek();
      if (job) return job;
      this.#levels.shift();
    }
  }

  shift(): void {
    this.#levels[0]?.shift();
  }

  /** Everything that waits; nothing does afterwards. */
  *drain(): IterableIterator<Job> {
    for (let job = this.peek(); job; job = this.peek()) {
      this.shift();
      yield job;
    }
  }

  #level(priority: number): Level {
    let at = 0;
    while (at < this.#levels.length && this.#levels[at]!.priority > priority) at++;
    const found = this.#levels[at];
    if (found?.priority === priority) return found;
    const level = new Level(priority);
    this.#levels.splice(at, 0, level);
    return level;
  }
}

/** The jobs of one priority. A Map keeps its keys in the order in which they came: the first name is the next. */
class Level {
  readonly priority: number;
  readonly #byName = new Map<string, Fifo<Job>>();

  constructor(priority: number) {
    this.priority = priority;
  }

  push(job: Job): void {
    this.#jobs(job.name).push(job);
  }

  unshift(job: Job): void {
    this.#jobs(job.name).unshift(job);
  }

  peek(): Job | undefined {
    for (const [name, jobs] of this.#byName) {
      while (jobs.peek()?.settled) jobs.shift();
      const job = jobs.peek();
      if (job) return job;
      this.#byName.delete(name);
    }
    return undefined;
  }

  /** Takes what `peek` gave; its name is the last in turn now. */
  shift(): void {
    for (const [name, jobs] of this.#byName) {
      jobs.shift();
      if (this.#byName.size === 1) return;
      this.#byName.delete(name);
      if (jobs.size > 0) this.#byName.set(name, jobs);
      return;
    }
  }

  #jobs(name: string): Fifo<Job> {
    let jobs = this.#byName.get(name);
    if (!jobs) this.#byName.set(name, (jobs = new Fifo()));
    return jobs;
  }
}
