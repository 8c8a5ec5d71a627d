#!/usr/bin/env bash
# node-redis' client-side cache keeps a value that FLUSHALL removed, for good, if the reply and the flush come in one read.
#
# The server tells a tracking client of a FLUSHALL by an invalidation of all keys, behind the reply to the GET that ran before it. The
# cache is emptied when the invalidation is parsed, but the value is stored when the promise of the reply is settled, and that is
# after the whole chunk was parsed. So the value enters an empty cache, the server believes that it has told of its end, and
# nothing ever will again: not the expiry, not even the next write of the key, because the server tracks it no more. One would expect
# that an invalidation counts for the replies before it; for one key it does. It matters wherever the loop is busy for a moment
# while somebody flushes: the flushed session or price is served until the process restarts.
set -euo pipefail
command -v redis-server > /dev/null || { echo "this needs a redis-server on the PATH"; exit 2; }
dir=$(mktemp -d)
trap 'kill "${server:-}" 2> /dev/null || true; rm -rf "$dir"' EXIT
cd "$dir"
npm init -y > /dev/null
npm install --no-audit --no-fund --loglevel=error redis@6.3.1 > /dev/null
port=$(node -e 'const s = require("node:net").createServer().listen(0, () => { console.log(s.address().port); s.close(); })')
redis-server --port "$port" --bind 127.0.0.1 --save '' --appendonly no > /dev/null &
server=$!
cat > main.mjs <<'JS'
import { execFileSync } from "node:child_process";
import { createClient } from "redis";
const port = Number(process.argv[2]);
const cli = (...args) => execFileSync("redis-cli", ["-p", port, ...args], { encoding: "utf8" }).trim();
const client = createClient({ socket: { port }, RESP: 3, clientSideCache: { ttl: 0, maxEntries: 100, evictPolicy: "LRU" } });
await client.connect();
async function readWhile(key, change) {
  cli("SET", key, "old");
  const reading = client.get(key);
  await new Promise(setImmediate); // the command leaves
  change(); // the loop is busy: the reply and the invalidation wait in the socket together
  const first = await reading;
  await new Promise((resolve) => setTimeout(resolve, 200));
  cli("SET", key, "new");
  await new Promise((resolve) => setTimeout(resolve, 200));
  return { first, later: await client.get(key) };
}
const written = await readWhile("price", () => cli("SET", "price", "between"));
const flushed = await readWhile("stock", () => cli("FLUSHALL"));
console.log(`${cli("INFO", "server").match(/redis_version:\S+/)[0]}, redis@6.3.1, node ${process.version}`);
console.log("a SET meanwhile:     ", written);
console.log("a FLUSHALL meanwhile:", flushed);
await client.close();
process.exitCode = written.later === "new" && flushed.later === "old" ? 0 : 1;
JS
until redis-cli -p "$port" ping > /dev/null 2>&1; do sleep 0.1; done
node main.mjs "$port"
# Seen with Redis 7.0.15, redis 6.3.1, Node 20.20.2:
#   a SET meanwhile:      { first: 'old', later: 'new' }
#   a FLUSHALL meanwhile: { first: 'old', later: 'old' }
