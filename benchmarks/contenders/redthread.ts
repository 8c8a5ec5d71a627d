import { ConnectionManager } from "redthread";
import { silent } from "../../test/support/silent.js";
import type { ByHandOptions } from "./by-hand.js";
import { byCallers, type Contender } from "./contender.js";
import type { Build } from "../support/build.js";
import type * as Tasks from "./redthread-tasks.js";

/** With its defaults, from callers of `run()`. */
export function redthread(options: ByHandOptions): Contender {
  const manager = openManager<typeof Tasks>("redthread-tasks.js", options);
  return {
    drive: byCallers((item) => manager.run("item", item)),
    close: () => manager.shutdown(),
  };
}

/** The same tasks from one `map()` that may have as many open as there are callers. */
export function redthreadMap(options: ByHandOptions): Contender {
  const manager = openManager<typeof Tasks>("redthread-tasks.js", options);
  return {
    async drive(items, concurrency) {
      const results = manager.map("item", items, { concurrency, ordered: false })[Symbol.asyncIterator]();
      while (!(await results.next()).done);
    },
    close: () => manager.shutdown(),
  };
}

/** `tasks` is a file of this folder. The manager is of the build that this module itself finds. */
export function openManager<T extends object>(tasks: string, { port, threads }: ByHandOptions): ConnectionManager<T> {
  return new ConnectionManager<T>({
    tasks: new URL(tasks, import.meta.url),
    env: {},
    logger: silent,
    redis: { port },
    threads: { count: threads },
  });
}

export async function openManagerOf<T extends object>(
  build: Build,
  tasks: string,
  options: ByHandOptions,
): Promise<ConnectionManager<T>> {
  const own = await build.load<{ openManager: typeof openManager }>("contenders/redthread.js");
  return own.openManager<T>(tasks, options);
}
