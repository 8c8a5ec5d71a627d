import { getRedisSync } from "redthread/sync";
import { getRedis } from "redthread/worker";
const KEYS = Array.from({ length: 100 }, (_, i) => `bench:${i}`);
export async function measure({ how, size, calls }) {
  const keys = KEYS.slice(0, size);
  let work;
  if (how === "sync") {
    const r = getRedisSync();
    const cmds = keys.map((k) => ["get", k]);
    work = () => (size === 1 ? r.get(keys[0]) : r.pipeline(cmds));
  } else if (how === "multi") {
    const r = await getRedis();
    work = () => {
      const p = r.multi();
      for (const k of keys) p.get(k);
      return p.exec();
    };
  } else {
    const r = await getRedis();
    work =
      size === 1
        ? () => r.get(keys[0])
        : () => {
            const p = r.pipeline();
            for (const k of keys) p.get(k);
            return p.exec();
          };
  }
  const s = [];
  for (let i = 0; i < calls; i++) {
    const a = performance.now();
    const o = work();
    if (o instanceof Promise) await o;
    s.push((performance.now() - a) * 1000);
  }
  return s;
}
