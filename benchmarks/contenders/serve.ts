/** The process of a contender. */
import { openLoop } from "../support/open-loop.js";
import { inputOfParent, serveParent } from "../support/own-process.js";
import type { Item } from "../work.js";
import type { ClosedLoad, ContenderInput, OpenLoad, Rate } from "./contender-process.js";
import { ROSTER } from "./roster.js";

const { contender, keys, ...place } = inputOfParent() as ContenderInput;
const { drive, close } = await ROSTER[contender](place);
let tasks = 0;

function itemOf(rounds: number): Item {
  return { key: `bench:${tasks++ % keys}`, rounds };
}

/** What was done until then. */
interface Mark {
  readonly tasks: number;
  readonly ms: number;
  readonly cpu: number;
}

/**
 * From one task that is taken to another: what is under way at either end weighs the same, and neither the first tasks of
 * callers that come all at once count, nor the last ones, of callers that have become few.
 */
async function closed({ callers, rounds, leadMs = 0, ms }: ClosedLoad): Promise<Rate> {
  const first = tasks;
  const mark = (): Mark => {
    const { user, system } = process.cpuUsage(); // of all threads
    return { tasks, ms: performance.now(), cpu: user + system };
  };
  const { ms: startedAt } = mark();
  let from: Mark | undefined;
  let to: Mark | undefined;
  function* items(): Generator<Item> {
    while (!to) {
      const now = performance.now();
      if (from && tasks - from.tasks >= callers && now >= from.ms + ms) to = mark();
      else {
        if (!from && tasks - first >= callers && now >= startedAt + leadMs) from = mark();
        yield itemOf(rounds);
      }
    }
  }
  await drive(items(), callers);
  const count = to!.tasks - from!.tasks;
  return { tasksPerSecond: (1_000 * count) / (to!.ms - from!.ms), cpuPerTask: (to!.cpu - from!.cpu) / count };
}

function open({ perSecond, rounds, ms, seed }: OpenLoad): Promise<number[]> {
  return openLoop({ perSecond, durationMs: ms, seed, call: () => drive([itemOf(rounds)], 1) });
}

serveParent(async (question) => {
  const load = question as ClosedLoad | OpenLoad;
  return "callers" in load ? closed(load) : open(load);
}, close);
