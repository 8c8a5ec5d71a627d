import { ConnectionManager } from "redthread";
import { silent } from "../../test/support/silent.js";
import type { ByHandOptions } from "./by-hand.js";
import { byCallers, type Contender } from "./contender.js";
import type * as Tasks from "./redthread-tasks.js";

/** With its defaults, from callers of `run()`. */
export function redthread(options: ByHandOptions): Contender {
  const manager = openManager(options);
  return {
    drive: byCallers((item) => manager.run("item", item)),
    close: () => manager.shutdown(),
  };
}

/** The same tasks from one `map()` that may have as many open as there are callers. */
export function redthreadMap(options: ByHandOptions): Contender {
  const manager = openManager(options);
  return {
    async drive(items, concurrency) {
      const results = manager.map("item", items, { concurrency, ordered: false })[Symbol.asyncIterator]();
      while (!(await results.next()).done);
    },
    close: () => manager.shutdown(),
  };
}

export function openManager({ port, threads }: ByHandOptions): ConnectionManager<typeof Tasks> {
  return new ConnectionManager<typeof Tasks>({
    tasks: new URL("./redthread-tasks.js", import.meta.url),
    env: {},
    logger: silent,
    redis: { port },
    threads: { count: threads },
  });
}
