#!/usr/bin/env bash
# After `sunsubscribe()` of any shard channel an ioredis client hears nothing of its other subscriptions any more.
#
# SUNSUBSCRIBE answers with the number of shard channels that are left, which are counted apart from those of SUBSCRIBE and PSUBSCRIBE. ioredis takes a count of 0 for
# "no subscription at all", drops its list of them, and from then on drops each message that the server goes on to send; nor are the
# subscriptions made again after a reconnect. One would expect the other subscriptions to stay. It matters in services that use both kinds on one connection: caches
# that are invalidated over an ordinary channel go stale without an error as soon as the last shard channel is given up.
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
  const heard = [];
  redis.on("message", (_channel, message) => heard.push(message));
  await redis.subscribe("news");
  await other.publish("news", "one");
  await redis.ping();
  const left = await redis.sunsubscribe("orders");
  const receivers = await other.publish("news", "two");
  await redis.ping();
  console.log(`node ${process.version}, ioredis ${require("ioredis/package.json").version}`);
  console.log(`sunsubscribe: ${left}; the server sent "two" to ${receivers} client; heard: ${heard}`);
  redis.disconnect();
  other.disconnect();
  process.exitCode = receivers === 1 && heard.join() === "one" ? 0 : 1;
})();
JS
node main.cjs "$dir/redis.sock"
# Seen with Node 20.20.2, ioredis 6.0.0 and Redis 7.0.15:
#   sunsubscribe: 0; the server sent "two" to 1 client; heard: one
