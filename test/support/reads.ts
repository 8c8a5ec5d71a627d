import type { RedisServer } from "./redis-server.js";

/** The number of GETs that the server has answered. */
export async function getsOf({ admin }: RedisServer): Promise<number> {
  return Number(/cmdstat_get:calls=(\d+)/.exec(await admin.info("commandstats"))?.[1] ?? 0);
}

/** Whether the server answers a GET of `read`. */
export async function isReadAt(server: RedisServer, read: () => Promise<unknown>): Promise<boolean> {
  const before = await getsOf(server);
  await read();
  return (await getsOf(server)) > before;
}
