/**
 * Contenders: the ways to use Redis from threads that the benchmarks compare. Each has a folder with its code in the main
 * thread and its tasks, which its threads load. `work.ts` has the work that all of them do, `roster.ts` names them for
 * `dispatch` and `latency`, which run each in a process of its own (`process.ts`, `serve.ts`). Start reading here.
 */
import { workerData } from "node:worker_threads";
import type { RedisOptions } from "ioredis";
import type { Item } from "./work.js";

/** Where Redis is: each thread that no manager starts gets this as its `workerData`. */
export interface Place {
  readonly port: number;
  readonly redis?: Omit<RedisOptions, "replyMapping">;
}

export interface ContenderOptions extends Place {
  readonly threads: number;
}

/** A started contender. */
export interface Contender {
  /** Runs all `items`, at most `atOnce` of them at a time; resolves after the last. */
  readonly drive: (items: Iterable<Item>, atOnce: number) => Promise<void>;
  readonly close: () => Promise<unknown>;
}

export function placeOfThread(): Place {
  return workerData as Place;
}

/** A `drive` for contenders that take one task per call: each caller takes the next item when its task is done. */
export function byCallers<Input = Item>(
  run: (input: Input) => Promise<unknown>,
): (inputs: Iterable<Input>, atOnce: number) => Promise<void> {
  return async (inputs, atOnce) => {
    const shared = inputs[Symbol.iterator]();
    const caller = async (): Promise<void> => {
      for (let next = shared.next(); !next.done; next = shared.next()) await run(next.value);
    };
    await Promise.all(Array.from({ length: atOnce }, caller));
  };
}
