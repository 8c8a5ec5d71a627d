import type { Item } from "../work.js";

/** One way to have tasks done by threads, open. */
export interface Contender {
  /** Has all of `items` done, so many at once; resolves after the last. */
  readonly drive: (items: Iterable<Item>, atOnce: number) => Promise<void>;
  readonly close: () => Promise<unknown>;
}

/** For what does one task per call: callers that take the next item as soon as theirs is done. */
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
