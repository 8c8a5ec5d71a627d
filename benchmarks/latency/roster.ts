import { type ByHandOptions, piscinaTuned, proxy } from "../contenders/by-hand.js";
import type { Contender } from "../contenders/contender.js";
import { redthread } from "../contenders/redthread.js";

interface Candidate {
  readonly name: string;
  readonly open: (options: ByHandOptions) => Contender;
}

/** Loads are shares of what this one does at most. */
export const RIVAL = "piscina tuned + global ioredis";

export const ROSTER: readonly Candidate[] = [
  { name: "redthread run()", open: redthread },
  { name: RIVAL, open: piscinaTuned },
  { name: "main thread as proxy", open: proxy },
];
