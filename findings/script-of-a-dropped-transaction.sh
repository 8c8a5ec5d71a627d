#!/usr/bin/env bash
# A script that was first used in a transaction which did not run breaks every later transaction of its ioredis connection in two.
#
# ioredis sends a custom command (defineCommand) in full the first time and by its SHA-1 from then on, and it counts the first time when the command is written.
# Inside of a transaction that is dropped (its WATCH failed) the server has only queued the text and never loaded it. From then on every transaction of this connection sends
# the digest: NOSCRIPT for the script, while the commands beside it are committed. One would expect all or nothing, or the full text again. It matters
# for optimistic locking with a script: after the first conflict each retry commits its other half alone. Outside of a transaction the script would be sent again in full.
set -euo pipefail
command -v redis-server > /dev/null || { echo "this needs a redis-server on the PATH"; exit 2; }
dir=$(mktemp -d)
trap 'kill "$server" 2> /dev/null || true; rm -rf "$dir"' EXIT
cd "$dir"
npm init -y > /dev/null
npm install --no-audit --no-fund --loglevel=error ioredis@6.0.0 > /dev/null
redis-server --port 0 --unixsocket "$dir/redis.sock" --save '' --appendonly no > /dev/null &
server=$!
until [ -S "$dir/redis.sock" ]; do sleep 0.05; done
cat > main.cjs <<'JS'
const { Redis } = require("ioredis");
(async () => {
  const redis = new Redis({ path: process.argv[2] });
  const other = new Redis({ path: process.argv[2] });
  redis.defineCommand("addone", { numberOfKeys: 1, lua: "return redis.call('INCRBY', KEYS[1], ARGV[1])" });
  await redis.watch("stock");
  await other.set("stock", 7);
  const first = await redis.multi().addone("stock", 1).exec();
  const second = await redis.multi().set("order", "placed").addone("stock", 1).exec();
  const [, [error]] = second;
  console.log(`node ${process.version}, ioredis ${require("ioredis/package.json").version}`);
  console.log(`first: ${first}; then: ${second[0][1]} and ${error?.message}; order is ${await redis.get("order")}, stock ${await redis.get("stock")}`);
  redis.disconnect();
  other.disconnect();
  process.exitCode = first === null && second[0][1] === "OK" && /^NOSCRIPT/.test(error?.message) ? 0 : 1;
})();
JS
node main.cjs "$dir/redis.sock"
# Seen with Node 20.20.2, ioredis 6.0.0 and Redis 7.0.15:
#   first: null; then: OK and NOSCRIPT No matching script. Please use EVAL.; order is placed, stock 7
