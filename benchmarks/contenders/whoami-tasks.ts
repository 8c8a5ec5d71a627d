import { acquireDedicated, getRedis, type TaskContext } from "redthread/worker";

export async function whoAmI(_: undefined, { threadId }: TaskContext): Promise<number> {
  await (await getRedis()).ping();
  return threadId;
}

/** As many leases as that, held for good. */
export async function hold(leases: number): Promise<void> {
  await Promise.all(Array.from({ length: leases }, () => acquireDedicated()));
}
