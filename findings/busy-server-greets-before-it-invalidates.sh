#!/usr/bin/env bash
# A Redis that is busy with a script answers HELLO before it sends the invalidations of the writes that ran before the script.
#
# In broadcasting mode (CLIENT TRACKING ON BCAST) the server gathers the keys that were written and sends them at the end of the cycle
# of its event loop. When a script lasts longer than busy-reply-threshold, the server reads its sockets in the middle of the
# cycle and answers the commands that are allowed then. One would expect an answer to prove that everything which the server had done
# before was told: on one connection it is ordered behind nothing that is still to come. It matters for near caches that ask
# again and again whether they are up to date: with a command such as HELLO they go on serving a replaced value for as
# long as the script runs. PING is refused then (BUSY), and proves nothing by mistake.
set -euo pipefail
command -v redis-server > /dev/null || { echo "this needs a redis-server on the PATH"; exit 2; }
dir=$(mktemp -d)
trap 'kill "${server:-}" 2> /dev/null || true; rm -rf "$dir"' EXIT
cd "$dir"
npm init -y > /dev/null
npm install --no-audit --no-fund --loglevel=error ioredis@6.0.0 > /dev/null
port=$(node -e 'const s = require("node:net").createServer().listen(0, () => { console.log(s.address().port); s.close(); })')
redis-server --port "$port" --bind 127.0.0.1 --save '' --appendonly no --busy-reply-threshold 50 > /dev/null &
server=$!
cat > main.cjs <<'JS'
const net = require("node:net");
const { Redis } = require("ioredis");
const port = Number(process.argv[2]);
const resp = (...args) => `*${args.length}\r\n${args.map((arg) => `$${Buffer.byteLength(arg)}\r\n${arg}\r\n`).join("")}`;
const later = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
(async () => {
  const tracking = net.connect(port, "127.0.0.1");
  const writing = new Redis(port, "127.0.0.1");
  tracking.resume();
  tracking.write(resp("HELLO", "3") + resp("CLIENT", "TRACKING", "ON", "BCAST"));
  await later(300);
  const events = [];
  const start = Date.now();
  tracking.on("data", (data) => {
    const text = String(data);
    const found = [["HELLO", /\$5\r\nproto/], ["BUSY", /-BUSY/], ["invalidation", /invalidate/]].filter(([, word]) => word.test(text));
    found.sort((a, b) => text.search(a[1]) - text.search(b[1]));
    for (const [what] of found) events.push({ what, afterMs: Date.now() - start });
  });
  const script = "local t = redis.call('TIME')[1] + 1 while redis.call('TIME')[1] + 0 <= t do end";
  writing.pipeline().set("price", "new").eval(script, 0).exec(); // one write, one cycle
  await later(300);
  tracking.write(resp("PING"));
  await later(100);
  tracking.write(resp("HELLO"));
  await later(3_000);
  console.log(`node ${process.version}`, events);
  const order = events.map(({ what }) => what).join(" ");
  process.exitCode = order === "BUSY HELLO invalidation" ? 0 : 1;
  tracking.destroy();
  writing.disconnect();
})();
JS
until redis-cli -p "$port" ping > /dev/null 2>&1; do sleep 0.1; done
redis-server --version
node main.cjs "$port"
# Seen with Redis 7.0.15: BUSY after 330 ms, HELLO after 431, and the invalidation of the write after 1 948.
