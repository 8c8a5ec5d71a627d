import type { Sample } from "../support/interleave.js";

/** One way to live through a part of the outage. */
export interface Rival {
  readonly name: string;
  readonly measure: () => Promise<Sample>;
}

export const REDTHREAD = "redthread";
export const TASKS = new URL("../contenders/outage-tasks.js", import.meta.url);
