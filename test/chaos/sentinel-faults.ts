import { NAME } from "../support/sentinel.js";
import { between, commonFaults, promoted } from "./faults.js";
import { type Fault, type Field, oneOf } from "./field.js";

/** Faults under sentinels only. */
export function sentinelFaults(field: Field): Fault[] {
  const { sentinels } = field;
  return [
    ...commonFaults(field),
    {
      name: "failover",
      mayLose: true, // the old master accepts writes until it is demoted
      provoke: async ({ replica }) => {
        await sentinels[0]!.admin.call("SENTINEL", "FAILOVER", NAME);
        await promoted(replica);
      },
    },
    {
      name: "sentinel-restarted",
      mayLose: false,
      provoke: async (_shard, random) => {
        const sentinel = oneOf(sentinels, random);
        await sentinel.kill();
        await between(random, 200, 4_000);
        await sentinel.start();
      },
    },
    {
      name: "sentinel-stale",
      mayLose: true,
      // The first listed sentinel misses a failover, and is asked before it knows about it.
      provoke: async ({ replica }) => {
        const [stale, good] = sentinels;
        stale!.freeze();
        try {
          await good!.admin.call("SENTINEL", "FAILOVER", NAME);
          await promoted(replica);
        } finally {
          stale!.thaw();
        }
      },
    },
    {
      name: "sentinels-frozen",
      mayLose: false,
      provoke: async (_shard, random) => {
        for (const sentinel of sentinels) sentinel.freeze();
        await between(random, 500, 2_500);
        for (const sentinel of sentinels) sentinel.thaw();
      },
    },
  ];
}
