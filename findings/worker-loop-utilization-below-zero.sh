#!/usr/bin/env bash
# The utilization of a worker's event loop, asked from outside, is less than zero now and then, and "since undefined" is since now.
#
# `worker.performance.eventLoopUtilization()` reads two numbers of another thread while that thread goes on: how long its
# loop has been idle, and the time. The idle time can be newer than the time it is subtracted from, so that the difference of
# two readings says that the loop was active for less than nothing. With 50 microseconds between the readings this happens in
# one of six to twelve cases, down to -0.4 and below. One would expect a share from 0 to 1. A second trap lies beside it: code
# that keeps the earlier reading in a variable, which is undefined at first, and calls `eventLoopUtilization(now, earlier)`,
# does not get the share since the worker's start then, but the share between `now` and the call itself, which is nothing but
# this noise. It matters wherever a pool, a dashboard or an autoscaler samples its threads: a mean is too low, and a share of
# minus 40 per cent is shown.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm init -y > /dev/null
npm install --no-audit --no-fund --loglevel=error node@22.12.0 > /dev/null
cat > main.mjs <<'JS'
import { Worker } from "node:worker_threads";
// Computes for 3 of every 8 ms or so: a plain, half busy loop.
const worker = new Worker("setInterval(() => { const from = Date.now(); while (Date.now() - from < 3); }, 5)", { eval: true });
await new Promise((resolve) => worker.once("online", resolve));
await new Promise((resolve) => setTimeout(resolve, 300));
const { performance: its } = worker;
const spin = (ms) => { const from = performance.now(); while (performance.now() - from < ms); };
let below = 0, samples = 0, least = 1;
for (const until = performance.now() + 2_000; performance.now() < until; samples++) {
  const earlier = its.eventLoopUtilization();
  spin(0.05);
  const { utilization } = its.eventLoopUtilization(its.eventLoopUtilization(), earlier);
  if (utilization < 0) below++;
  least = Math.min(least, utilization);
}
let first;
const sinceUndefined = its.eventLoopUtilization(its.eventLoopUtilization(), first);
const sinceStart = its.eventLoopUtilization();
console.log(process.version);
console.log(`of ${samples} shares ${below} are below zero, the least is ${least.toFixed(2)}`);
console.log(`since undefined: ${(sinceUndefined.idle + sinceUndefined.active).toFixed(3)} ms, since the start: ${(sinceStart.idle + sinceStart.active).toFixed(0)} ms`);
await worker.terminate();
if (below === 0 || sinceUndefined.idle + sinceUndefined.active > 50) { console.log("This has changed."); process.exit(1); }
JS
./node_modules/.bin/node main.mjs
# Seen: v22.12.0
#       of 16758 shares 2907 are below zero, the least is -0.38
#       since undefined: 0.001 ms, since the start: 2314 ms
