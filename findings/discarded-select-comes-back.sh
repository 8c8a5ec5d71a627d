#!/usr/bin/env bash
# After a reconnect an ioredis client is in a database that it had only wanted to select: the transaction with the SELECT was dropped.
#
# ioredis notes the database of a SELECT when it queues the command, not when the server says OK. A SELECT inside of a transaction whose
# WATCH failed, or which was discarded, never happens, and the client goes on where it was, until its connection is lost: the next one is put into the
# other database without a word. One would expect the last database that the server confirmed. It matters where one client serves several databases: after a
# network blip keys are "gone", and writes go where nobody looks for them.
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
const { once } = require("node:events");
const { Redis } = require("ioredis");
(async () => {
  const redis = new Redis({ path: process.argv[2] });
  const other = new Redis({ path: process.argv[2] });
  const db = async () => /\bdb=(\d+)/.exec(await redis.client("INFO"))[1];
  await redis.watch("seat");
  await other.set("seat", "taken");
  const outcome = await redis.multi().select(3).set("mine", "1").exec();
  const before = await db();
  redis.disconnect(true);
  await once(redis, "ready");
  const after = await db();
  console.log(`node ${process.version}, ioredis ${require("ioredis/package.json").version}`);
  console.log(`the transaction gave ${outcome}; the database was ${before}, and is ${after} after a reconnect`);
  redis.disconnect();
  other.disconnect();
  process.exitCode = outcome === null && before === "0" && after === "3" ? 0 : 1;
})();
JS
node main.cjs "$dir/redis.sock"
# Seen with Node 20.20.2, ioredis 6.0.0 and Redis 7.0.15:
#   the transaction gave null; the database was 0, and is 3 after a reconnect
