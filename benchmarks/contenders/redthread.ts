import { ConnectionManager } from "../../src/index.js";
import { silent } from "../../test/support/manage.js";
import type { ByHandOptions } from "./by-hand.js";
import { byCallers, type Contender } from "./contender.js";
import type * as Tasks from "./redthread-tasks.js";

/** With its defaults. */
export function redthread({ port, threads }: ByHandOptions): Contender {
  const manager = new ConnectionManager<typeof Tasks>({
    tasks: new URL("./redthread-tasks.js", import.meta.url),
    env: {},
    logger: silent,
    redis: { port },
    threads: { count: threads },
  });
  return {
    drive: byCallers((item) => manager.run("item", item)),
    close: () => manager.shutdown(),
  };
}
