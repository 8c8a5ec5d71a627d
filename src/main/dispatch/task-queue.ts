import { Fifo } from "../../core/fifo.js";
import type { TaskRun } from "./task-run.js";

/**
 * The tasks that wait for a thread. The highest priority goes first; among equals the names of tasks take turns, so that a
 * flood of one task does not keep the others waiting; of one name the oldest goes first. Settled runs are skipped.
 */
export class TaskQueue {
  /** Highest first. */
  readonly #levels: Level[] = [];
  #size = 0;

  /** How many runs wait whose callers still wait for them. */
  get size(): number {
    return this.#size;
  }

  push(run: TaskRun): void {
    this.#level(run.priority).of(run.name).push(run);
    this.#size++;
  }

  /** Puts a run before all others of its name. */
  unshift(run: TaskRun): void {
    this.#level(run.priority).of(run.name).unshift(run);
    this.#size++;
  }

  /** A waiting run is being settled. It stays until the queue comes to it. */
  left(): void {
    this.#size--;
  }

  /** The next run, which stays until `shift`. */
  peek(): TaskRun | undefined {
    for (;;) {
      const level = this.#levels[0];
      if (!level) return undefined;
      const run = level.peek();
      if (run) return run;
      this.#levels.shift();
    }
  }

  /** Takes the run that `peek` gave. */
  shift(): void {
    this.#levels[0]?.shift();
    this.#size--;
  }

  /** Takes all runs. */
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

/** The runs of one priority. A Map keeps its keys in the order in which they came: the first name is the next. */
class Level {
  readonly priority: number;
  readonly #byName = new Map<string, Fifo<TaskRun>>();

  constructor(priority: number) {
    this.priority = priority;
  }

  of(name: string): Fifo<TaskRun> {
    let runs = this.#byName.get(name);
    if (!runs) this.#byName.set(name, (runs = new Fifo()));
    return runs;
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

  /** Takes the run that `peek` gave, and puts its name behind all others. */
  shift(): void {
    for (const [name, runs] of this.#byName) {
      runs.shift();
      if (this.#byName.size === 1) return;
      this.#byName.delete(name);
      if (runs.size > 0) this.#byName.set(name, runs);
      return;
    }
  }
}
