#!/usr/bin/env bash
# While a slot moves, a pipeline of reads of ioredis' Cluster gives null for keys that exist.
#
# A slot moves key by key: its old node serves the keys that it still has, and answers ASK for those that it has not. When
# commands of a pipeline are answered with ASK and all others were reads, ioredis runs the whole pipeline again at the new
# node, behind ASKING. There the reads of keys that have not been moved yet find nothing, and their right answers from the old node are
# thrown away. One would expect only the redirected commands to be sent on. It matters in every resharding under traffic:
# a session, a balance or a flag that exists reads as missing, without an error. Alone, or beside a write that succeeded, the
# same reads are answered rightly.
set -euo pipefail
command -v redis-server > /dev/null || { echo "this needs a redis-server on the PATH"; exit 2; }
dir=$(mktemp -d)
trap 'kill $servers 2> /dev/null || true; rm -rf "$dir"' EXIT
cd "$dir"
npm init -y > /dev/null
npm install --no-audit --no-fund --loglevel=error ioredis@6.0.0 > /dev/null
servers=
read -r from to <<< "$(node -e '
const net = require("node:net");
// The bus of a node listens 10 000 ports higher.
const free = () => new Promise((resolve) => { const s = net.createServer().listen(0, () => { const { port } = s.address(); s.close(() => resolve(port)); }); });
(async () => { const found = new Set(); while (found.size < 2) { const port = await free(); if (port < 55000) found.add(port); else found.add(port - 20000); } console.log([...found].join(" ")); })();')"
for port in $from $to; do
  mkdir "$port"
  redis-server --port "$port" --dir "$dir/$port" --cluster-enabled yes --cluster-config-file nodes.conf --save '' --appendonly no > /dev/null &
  servers="$servers $!"
done
cat > main.cjs <<'JS'
const { Cluster, Redis } = require("ioredis");
const [from, to] = process.argv.slice(2).map(Number);
const HASH = "{cart}";
(async () => {
  const [source, target] = [from, to].map((port) => new Redis(port, "127.0.0.1"));
  const until = async (check) => { while (!(await check().catch(() => false))) await new Promise((resolve) => setTimeout(resolve, 50)); };
  await until(() => source.ping());
  await until(() => target.ping());
  await source.cluster("ADDSLOTSRANGE", 0, 16382);
  await target.cluster("ADDSLOTSRANGE", 16383, 16383);
  await source.cluster("MEET", "127.0.0.1", to);
  for (const node of [source, target]) await until(async () => (await node.cluster("INFO")).includes("cluster_state:ok"));
  const cluster = new Cluster([{ host: "127.0.0.1", port: from }]);
  await cluster.mset(`${HASH}moved`, "7", `${HASH}name`, "Ada");
  const slot = await source.cluster("KEYSLOT", HASH);
  await target.cluster("SETSLOT", slot, "IMPORTING", await source.cluster("MYID"));
  await source.cluster("SETSLOT", slot, "MIGRATING", await target.cluster("MYID"));
  await source.migrate("127.0.0.1", to, `${HASH}moved`, 0, 5000);
  const alone = [await cluster.get(`${HASH}moved`), await cluster.get(`${HASH}name`)];
  const piped = (await cluster.pipeline().get(`${HASH}moved`).get(`${HASH}name`).exec()).map(([error, value]) => error?.message ?? value);
  console.log(`node ${process.version}, ioredis ${require("ioredis/package.json").version}, redis ${/redis_version:(\S+)/.exec(await source.info())[1]}`);
  console.log(`alone: ${JSON.stringify(alone)}; in a pipeline: ${JSON.stringify(piped)}; at the old node: ${JSON.stringify(await source.get(`${HASH}name`))}`);
  for (const client of [cluster, source, target]) client.disconnect();
  process.exitCode = JSON.stringify([alone, piped]) === JSON.stringify([["7", "Ada"], ["7", null]]) ? 0 : 1;
})();
JS
node main.cjs "$from" "$to"
# Seen with Node 20.20.2, ioredis 6.0.0 and Redis 7.0.15:
#   alone: ["7","Ada"]; in a pipeline: ["7",null]; at the old node: "Ada"
