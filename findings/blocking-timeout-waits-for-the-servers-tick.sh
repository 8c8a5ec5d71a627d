#!/usr/bin/env bash
# On a quiet Redis a blocking command ends with the server's next tick, up to 100 ms after its timeout.
#
# BLPOP takes its timeout in seconds with decimals, and WAIT in milliseconds, so one would expect `BLPOP key 0.01` to give up after
# about 10 ms. The server looks for timeouts that are over only when its event loop turns. Without other traffic that is ten times
# a second (`hz 10`): the command ends after 100 ms. The same call is exact on a busy server, and with a higher `hz` it is nearly so.
# A client that gives a short WAIT and counts on its end (to extend a lock in time, to keep to a deadline), or that has a limit
# of its own just above the command's timeout, meets this only where there is little traffic, as in tests or at night.
#
# Seen with Redis 7.0.15 on a Unix socket, medians of nine:
#   Node v20.20.2, ioredis 6.0.0: BLPOP for 10 ms 107 ms, WAIT for 10 ms 100 ms; beside other traffic 12 ms and 11 ms; with hz 100 21 ms
set -euo pipefail
command -v redis-server > /dev/null || { echo "this needs a redis-server on the PATH"; exit 2; }
dir=$(mktemp -d)
trap 'kill "$server" 2> /dev/null || true; rm -rf "$dir"' EXIT
cd "$dir"
npm init -y > /dev/null
npm install --no-audit --no-fund --loglevel=error ioredis@6.0.0 > /dev/null
redis-server --port 0 --unixsocket "$dir/redis.sock" --save '' --appendonly no --hz 10 --dynamic-hz no > /dev/null &
server=$!
until [ -S "$dir/redis.sock" ]; do sleep 0.05; done
cat > main.mjs <<'JS'
import { Redis } from "ioredis";

const path = process.argv[2];
const redis = new Redis({ path });
const other = new Redis({ path });
await other.ping();

/** The median of nine, in ms. */
async function timeOf(...command) {
  const times = [];
  for (let i = 0; i < 9; i++) {
    await redis.set("written", i);
    const startedAt = performance.now();
    await redis.call(...command);
    times.push(performance.now() - startedAt);
  }
  return Math.round(times.sort((a, b) => a - b)[4]);
}

const quiet = { pop: await timeOf("BLPOP", "nothing", "0.01"), wait: await timeOf("WAIT", "1", "10") };
const traffic = setInterval(() => other.ping(), 1);
const busy = { pop: await timeOf("BLPOP", "nothing", "0.01"), wait: await timeOf("WAIT", "1", "10") };
clearInterval(traffic);
await redis.config("SET", "hz", "100");
const often = await timeOf("BLPOP", "nothing", "0.01");
console.log(
  `Node ${process.version}, ioredis 6.0.0: BLPOP for 10 ms ${quiet.pop} ms, WAIT for 10 ms ${quiet.wait} ms; ` +
    `beside other traffic ${busy.pop} ms and ${busy.wait} ms; with hz 100 ${often} ms`,
);
redis.disconnect();
other.disconnect();
const isAsSeen = Math.min(quiet.pop, quiet.wait) > 60 && Math.max(busy.pop, busy.wait) < 60 && often < 60;
process.exitCode = isAsSeen ? 0 : 1;
JS
node main.mjs "$dir/redis.sock" || { echo "This has changed."; exit 1; }
