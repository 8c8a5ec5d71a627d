import { AsyncLocalStorage } from "node:async_hooks";
import type { LockLostError } from "../core/errors.js";
import { heldAlready } from "./lock-refusals.js";

/** A task that may hold locks. */
export interface LockingTask {
  lostLock(loss: LockLostError): void;
}

/** A call of `withLock`, while its function runs. */
interface Scope {
  readonly name: string;
  isOpen: boolean;
  readonly outer: Scope | undefined;
}

/** Knows the locks that a caller has already: locks are not re-entrant, and a caller would wait for itself. */
export class LockScopes {
  /** The names of the locks that each task holds or asks for. */
  readonly #ofTask = new WeakMap<LockingTask, Set<string>>();
  /** For callers outside of a task: the locks inside whose `withLock` the running code is. */
  readonly #inside = new AsyncLocalStorage<Scope>();

  /** `shown`: its name in an error. Returns the function that forgets the lock again. @throws REDTHREAD_LOCK_NOT_ACQUIRED */
  enter(task: LockingTask | undefined, name: string, shown: string): () => void {
    if (!task) {
      if (this.#isInside(name)) throw heldAlready(shown);
      return () => {};
    }
    const names = this.#ofTask.get(task) ?? new Set();
    if (names.has(name)) throw heldAlready(shown);
    names.add(name);
    this.#ofTask.set(task, names);
    return () => names.delete(name);
  }

  /** Runs `fn`, the function of a `withLock`. A task is asked for its locks instead, because each run of a scope costs more than that. */
  async run<T>(task: LockingTask | undefined, name: string, fn: () => T | PromiseLike<T>): Promise<T> {
    if (task) return fn();
    const scope: Scope = { name, isOpen: true, outer: this.#inside.getStore() };
    try {
      return await this.#inside.run(scope, fn);
    } finally {
      scope.isOpen = false; // what `fn` has started may go on
    }
  }

  #isInside(name: string): boolean {
    for (let at = this.#inside.getStore(); at; at = at.outer) if (at.isOpen && at.name === name) return true;
    return false;
  }
}

/** The same bytes have the same name, as text and as a Buffer. Different bytes have different names. */
export function nameOf(key: string | Buffer): string {
  if (typeof key !== "string") return key.toString("latin1");
  return ASCII.test(key) ? key : Buffer.from(key).toString("latin1");
}

const ASCII = /^[\0-\x7f]*$/;
