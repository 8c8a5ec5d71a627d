/** The process of a contender. */
import { closedLoop } from "../support/closed-loop.js";
import { openLoop } from "../support/open-loop.js";
import { inputOfParent, serveParent } from "../support/own-process.js";
import type { Item } from "../work.js";
import type { ClosedLoad, ContenderInput, OpenLoad } from "./contender-process.js";
import { ROSTER } from "./roster.js";

const { contender, keys, ...place } = inputOfParent() as ContenderInput;
const { drive, close } = await ROSTER[contender](place);
let tasks = 0;

function itemOf(rounds: number): Item {
  return { key: `bench:${tasks++ % keys}`, rounds };
}

function open({ perSecond, rounds, ms, seed }: OpenLoad): Promise<number[]> {
  return openLoop({ perSecond, durationMs: ms, seed, call: () => drive([itemOf(rounds)], 1) });
}

serveParent(async (question) => {
  const load = question as ClosedLoad | OpenLoad;
  if (!("callers" in load)) return open(load);
  const { callers, rounds, leadMs = 0, ms } = load;
  return closedLoop({ callers, leadMs, ms, next: () => itemOf(rounds), drive });
}, close);
