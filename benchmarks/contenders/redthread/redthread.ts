import { ConnectionManager, type ManagerOptions } from "redthread";
import { silent } from "../../../test/support/silent.js";
import type { Build } from "../../support/build.js";
import { byCallers, type Contender, type ContenderOptions } from "../contender.js";
import type * as NearTasks from "./near-tasks.js";
import type * as Tasks from "./tasks.js";

const TASKS = "contenders/redthread/tasks.js";

/** Callers of `run()`; all options have their defaults. */
export function redthread({ port, threads }: ContenderOptions): Contender {
  const manager = openManager<typeof Tasks>({ redis: { port }, threads: { count: threads } });
  return {
    drive: byCallers((item) => manager.run("item", item)),
    close: () => manager.shutdown(),
  };
}

/** The same, but that the keys are read through the near cache. */
export function redthreadNear({ port, threads }: ContenderOptions): Contender {
  const options = { redis: { port }, threads: { count: threads }, nearCache: { prefixes: ["bench:"] } };
  const manager = openManager<typeof NearTasks>(options, "contenders/redthread/near-tasks.js");
  return {
    drive: byCallers((item) => manager.run("item", item)),
    close: () => manager.shutdown(),
  };
}

/** The same tasks from one `map()`, whose concurrency is the number of callers. */
export function redthreadMap({ port, threads }: ContenderOptions): Contender {
  const manager = openManager<typeof Tasks>({ redis: { port }, threads: { count: threads } });
  return {
    async drive(items, concurrency) {
      const results = manager.map("item", items, { concurrency, ordered: false })[Symbol.asyncIterator]();
      while (!(await results.next()).done);
    },
    close: () => manager.shutdown(),
  };
}

type Options = Omit<ManagerOptions, "tasks">;

/** A silent manager of the build that this module finds. `tasks` is a path in the folder of the benchmarks. */
export function openManager<T extends object>(options: Options, tasks = TASKS): ConnectionManager<T> {
  return new ConnectionManager<T>({
    tasks: new URL(`../../${tasks}`, import.meta.url),
    env: {},
    logger: silent,
    ...options,
  });
}

/** The same for each build, ready to use. */
export async function openManagers<T extends object>(builds: readonly Build[], options: Options, tasks?: string) {
  const managers = await Promise.all(
    builds.map(async (build) => {
      const own = await build.load<{ openManager: typeof openManager }>("contenders/redthread/redthread.js");
      return own.openManager<T>(options, tasks);
    }),
  );
  for (const manager of managers) await manager.ready();
  const close = async (): Promise<void> => {
    for (const manager of managers) await manager.shutdown();
  };
  return Object.assign(managers, { [Symbol.asyncDispose]: close });
}
