import { getHeapSpaceStatistics, setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

setFlagsFromString("--expose-gc");
export const collect = runInNewContext("gc") as (options?: { readonly type: "minor" }) => void;

/** The bytes in V8's old generation, in a process that only this measurement uses. */
export function oldKb(): number {
  const space = getHeapSpaceStatistics().find(({ space_name }) => space_name === "old_space")!;
  return space.space_used_size / 1_024;
}
