/**
 * `npm run test:near [-- SECONDS [SEED]]`: for at least 10 minutes by default, threads read through a near cache while another
 * process writes, and connections, servers, keepers and threads fail at random, with `maxStaleMs` of 60 and 250 in turn. No value
 * may be older than promised, mixed from two, or of another key.
 *
 * `npm run test:near -- busy [SECONDS]`: nothing fails, and a thread computes on each core. Says which share of the reads of hot
 * keys memory answers, with each `maxStaleMs`. With 250 it must be 90 %.
 */
import { hitRateWhileBusy } from "./near-hits.js";
import { runNear } from "./near-run.js";

const ROUND_S = 30;
const BUSY_S = 20;
const BUSY_MAX_STALE_MS = 250;
const LEAST_HITS = 0.9;

async function soak(seconds = 600, seed = 29): Promise<void> {
  let oldest = 0;
  const sums: Record<string, number> = {};
  for (let round = 0; round * ROUND_S < seconds; round++) {
    const maxStaleMs = round % 2 === 0 ? 60 : 250;
    const given = { seed: seed + round, seconds: Math.min(ROUND_S, seconds - round * ROUND_S), maxStaleMs };
    const { counts, oldestMs, problems } = await runNear(given);
    for (const [name, count] of Object.entries(counts)) sums[name] = (sums[name] ?? 0) + count;
    oldest = Math.max(oldest, oldestMs / maxStaleMs);
    console.log(`${JSON.stringify(given)}: the oldest ${oldestMs.toFixed(1)} ms, ${problems.length} problems`);
    for (const problem of problems.slice(0, 20)) console.log(`  ${problem}`);
    if (problems.length > 0) process.exitCode = 1;
  }
  console.log(`${JSON.stringify(sums)}, the oldest ${Math.round(100 * oldest)} % of what is promised`);
}

async function busy(seconds = BUSY_S): Promise<void> {
  for (const maxStaleMs of [60, BUSY_MAX_STALE_MS]) {
    const { reads, hits } = await hitRateWhileBusy(maxStaleMs, seconds);
    console.log(`maxStaleMs ${maxStaleMs}: ${((100 * hits) / reads).toFixed(1)} % of ${reads} reads are hits`);
    if (maxStaleMs === BUSY_MAX_STALE_MS && hits < LEAST_HITS * reads) process.exitCode = 1;
  }
}

const given = process.argv.slice(2);
if (given[0] === "busy") await busy(...given.slice(1).map(Number));
else await soak(...given.map(Number));
