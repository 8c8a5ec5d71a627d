import { getRedis } from "redthread/worker";

export async function get(key: string): Promise<number> {
  return (await (await getRedis()).getBuffer(key))?.length ?? 0;
}

export async function getMany({ key, depth, gets }: { key: string; depth: number; gets: number }): Promise<void> {
  const redis = await getRedis();
  for (let left = gets; left > 0; left -= depth) {
    await Promise.all(Array.from({ length: Math.min(depth, left) }, () => redis.getBuffer(key)));
  }
}
