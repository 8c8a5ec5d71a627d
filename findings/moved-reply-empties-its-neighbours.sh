#!/usr/bin/env bash
# Moving the buffer of one ioredis reply to another thread empties the replies that came in the same chunk.
#
# A Buffer reply of ioredis is a view on the chunk that the socket gave, and so are the replies beside it. Handing one reply on with
# postMessage(reply, [reply.buffer]), the usual way to spare a copy, moves the chunk: every other reply in it has no bytes any
# more, without an error. One would expect a reply to be the caller's own. It matters in services that fetch several
# values at once and move one of them to a worker: the others are written on as empty values.
# `Uint8Array.prototype.slice.call(reply)` makes a copy that may be moved.
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
const { MessageChannel } = require("node:worker_threads");
const { Redis } = require("ioredis");
(async () => {
  const redis = new Redis({ path: process.argv[2] });
  await redis.mset("a", "A".repeat(3000), "b", "B".repeat(3000));
  const [a, b] = await redis.mgetBuffer("a", "b");
  const before = b.length;
  const { port1 } = new MessageChannel();
  port1.postMessage(a, [a.buffer]);
  console.log(`node ${process.version}, ioredis ${require("ioredis/package.json").version}`);
  console.log(`the other reply had ${before} bytes, and has ${b.length}`);
  port1.close();
  redis.disconnect();
  process.exitCode = before === 3000 && b.length === 0 ? 0 : 1;
})();
JS
node main.cjs "$dir/redis.sock"
# Seen with Node 20.20.2, ioredis 6.0.0 and Redis 7.0.15:
#   the other reply had 3000 bytes, and has 0
