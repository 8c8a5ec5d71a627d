import { Fifo } from "../../core/fifo.js";
import type { TaskRun } from "./task-run.js";

/**
 * What waits for a thread: the highest priority first, among equals the names of tasks in turn, of one name the oldest.
 * So a flood of one task does not keep the others waiting. Jobs whose callers gave up are passed over.
 */
export class TaskQueue {
  /** Highest first. */
  readonly #levels: Level[] = [];

  push(run: TaskRun): void {
    this.#level(run.priority).push(run);
  }

  /** Before all others of its name. */
  unshift(run: TaskRun): void {
    this.#level(run.priority).unshift(run);
  }

  /** The next, which stays until `shift`. */
  peek(): TaskRun | undefined {
    for (;;) {
      const level = this.#levels[0];
      if (!level) return undefined;
      const run = level.peek();
      if (run) return run;
      this.#levels.shift();
    }
  }

  shift(): void {
    this.#levels[0]?.shift();
  }

  /** Everything that waits; nothing does afterwards. */
  *drain(): IterableIterator<TaskRun> {
    for (let run = this.peek(); run; run = this.peek()) {
      this.shift();
      yield run;
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
  readonly #byName = new Map<string, Fifo<TaskRun>>();

  constructor(priority: number) {
    this.priority = priority;
  }

  push(run: TaskRun): void {
    this.#runs(run.name).push(run);
  }

  unshift(run: TaskRun): void {
    this.#runs(run.name).unshift(run);
  }

  peek(): TaskRun | undefined {
    for (const [name, runs] of this.#byName) {
      while (runs.peek()?.settled) runs.shift();
      const run = runs.peek();
      if (run) return run;
      this.#byName.delete(name);
    }
    return undefined;
  }

  /** Takes what `peek` gave; its name is the last in turn now. */
  shift(): void {
    for (const [name, runs] of this.#byName) {
      runs.shift();
      if (this.#byName.size === 1) return;
      this.#byName.delete(name);
      if (runs.size > 0) this.#byName.set(name, runs);
      return;
    }
  }

  #runs(name: string): Fifo<TaskRun> {
    let runs = this.#byName.get(name);
    if (!runs) this.#byName.set(name, (runs = new Fifo()));
    return runs;
  }
}
