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

async function closed({ callers, rounds, ms }: ClosedLoad): Promise<Rate> {
  const startedAt = performance.now();
  const cpuBefore = process.cpuUsage();
  let count = 0;
  function* items(): Generator<Item> {
    for (; count < callers || performance.now() - startedAt < ms; count++) yield itemOf(rounds);
  }
  await drive(items(), callers);
  const seconds = (performance.now() - startedAt) / 1_000;
  const { user, system } = process.cpuUsage(cpuBefore); // of all threads
  return { tasksPerSecond: count / seconds, cpuPerTask: (user + system) / count };
}

function open({ perSecond, rounds, ms, seed }: OpenLoad): Promise<number[]> {
  return openLoop({ perSecond, durationMs: ms, seed, call: () => drive([itemOf(rounds)], 1) });
}

serveParent(async (question) => {
  const load = question as ClosedLoad | OpenLoad;
  return "callers" in load ? closed(load) : open(load);
}, close);
