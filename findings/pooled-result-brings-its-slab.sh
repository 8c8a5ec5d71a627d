#!/usr/bin/env bash
# A Buffer of 12 bytes that a piscina worker returns arrives with all of the slab that Node cut it from.
#
# Buffer.from() of a short text takes its memory from a slab that Node shares out (8 kB on Node 20, 64 kB on late 24). A
# structured clone writes the whole ArrayBuffer behind a view, so that each such result brings the slab along, with
# whatever other values stand in it. One would expect a result of 12 bytes to take about as much. It matters where a service
# keeps results: 100 000 of them took 0.8 GB on Node 20 and 6 GB on late 24, and .buffer shows other requests' bytes.
# `new Uint8Array(buffer)` before the return gives the result a buffer of its own.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm init -y > /dev/null
npm install --no-audit --no-fund --loglevel=error piscina@5.3.2 > /dev/null
cat > worker.cjs <<'JS'
exports.pooled = () => Buffer.from("result 12345");
exports.own = () => new Uint8Array(Buffer.from("result 12345"));
JS
cat > main.cjs <<'JS'
const { Piscina } = require("piscina");
(async () => {
  const pool = new Piscina({ filename: `${__dirname}/worker.cjs`, maxThreads: 1 });
  const pooled = await pool.run(undefined, { name: "pooled" });
  const own = await pool.run(undefined, { name: "own" });
  console.log(`node ${process.version}, piscina 5.3.2`);
  console.log(`pooled: ${pooled.constructor.name} of ${pooled.length} bytes, its buffer has ${pooled.buffer.byteLength}`);
  console.log(`own: ${own.constructor.name} of ${own.length} bytes, its buffer has ${own.buffer.byteLength}`);
  await pool.destroy();
  process.exitCode = pooled.buffer.byteLength >= 8_192 && own.buffer.byteLength === 12 ? 0 : 1;
})();
JS
node main.cjs
# Seen with Node 20.20.2 and piscina 5.3.2 (24.22.3: 65536):
#   pooled: Uint8Array of 12 bytes, its buffer has 8192
#   own: Uint8Array of 12 bytes, its buffer has 12
