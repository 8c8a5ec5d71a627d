/** The program of a contender's process. */
import { closedLoop, openLoop } from "../support/loops.js";
import { inputOfParent, serveParent } from "../support/own-process.js";
import type { ClosedLoad, ContenderInput, OpenLoad } from "./process.js";
import { ROSTER } from "./roster.js";
import type { Item } from "./work.js";

const { contender, keys, ...place } = inputOfParent() as ContenderInput;
const { drive, close } = await ROSTER[contender](place);
let tasks = 0;

function itemOf(rounds: number): Item {
  return { key: `bench:${tasks++ % keys}`, rounds };
}

serveParent(async (question) => {
  const load = question as ClosedLoad | OpenLoad;
  const next = (): Item => itemOf(load.rounds);
  if (!("callers" in load)) return openLoop({ ...load, call: () => drive([next()], 1) });
  return closedLoop({ leadMs: 0, ...load, next, drive });
}, close);
