#!/usr/bin/env bash
# An EXEC in a pipeline, for a MULTI that was sent before it, commits, and gives TypeErrors in place of the replies.
#
# With `multi({ pipeline: false })` ioredis lets a transaction be built command by command. When its EXEC is sent in a pipeline, ioredis looks among the commands of that
# pipeline for those which were queued, in order to transform their replies; they are not there, and each reply becomes a TypeError of ioredis' own, in the
# place where Redis puts the errors of commands. One would expect the replies. It matters because whoever looks for errors in the list takes a committed transaction for a failed one, and repeats it.
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
  await redis.multi({ pipeline: false });
  await redis.incr("stock");
  const [[, [reply]]] = await redis.pipeline().call("exec").exec();
  const stock = await redis.get("stock");
  console.log(`node ${process.version}, ioredis ${require("ioredis/package.json").version}`);
  console.log(`the reply is ${reply}; stock is ${stock}`);
  redis.disconnect();
  process.exitCode = reply instanceof TypeError && stock === "1" ? 0 : 1;
})();
JS
node main.cjs "$dir/redis.sock"
# Seen with Node 20.20.2, ioredis 6.0.0 and Redis 7.0.15:
#   the reply is TypeError: Cannot read properties of undefined (reading 'transformReply'); stock is 1
