// Computes the report of a day, once over all processes: `REDIS_URL=redis://… node main.mjs 2026-01-31`, twice at the same time
import { ConnectionManager } from "redthread";

/** Stores a report, unless a later holder of the lock has stored one. Gives 1 if it did. */
const STORE_REPORT = `
if tonumber(redis.call('HGET', KEYS[1], 'fence') or '0') > tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'fence', ARGV[1], 'digest', ARGV[2])
return 1`;

const manager = new ConnectionManager({
  tasks: new URL("./tasks.mjs", import.meta.url),
  redis: { scripts: { storeReport: { numberOfKeys: 1, lua: STORE_REPORT } } },
  threads: { count: 1 },
});
try {
  const [day = "2026-01-31"] = process.argv.slice(2);
  console.log(JSON.stringify(await manager.run("report", { day, rounds: 2_500_000 })));
} catch (error) {
  console.error(JSON.stringify({ code: error.code, message: error.message, holder: error.holder }));
  process.exitCode = 1;
} finally {
  await manager.shutdown();
}
