#!/usr/bin/env bash
# Turbopack finds a file that is named by a variable, and copies it without the modules that it imports.
#
# `new URL("./worker.mjs", import.meta.url)` is what bundlers look for: they take the file for an asset. A library that must not be
# bundled that way keeps the name in a variable. webpack then leaves the call alone (and warns). Turbopack follows the constant
# through a template string with a parameter, finds the call, copies the file into `.next`, and rewrites the URL to the copy. The
# copy is no module for it: what the file imports stays behind, and a thread that is started from it ends with "Cannot find
# module". Behind a call, as in `new URL(path, String(import.meta.url))`, it leaves the URL as it is, and the thread runs. It
# matters to each library that starts a thread from a file of its own: what works in Node, in webpack and in tests fails in an app.
#
# Seen:
#   Node, by itself: {"plain":"runs","hidden":"runs"}
#   Node v20.20.2; next 16.4.6 with Turbopack: {"plain":"ERR_MODULE_NOT_FOUND","hidden":"runs"}
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
echo '{ "private": true, "type": "module" }' > package.json
npm install --no-audit --no-fund --loglevel=error next@16.4.6 react@19.3.1 react-dom@19.3.1 > /dev/null
mkdir -p node_modules/starter/workers app/probe
cat > node_modules/starter/package.json <<'JS'
{ "name": "starter", "version": "1.0.0", "type": "module", "exports": "./index.js" }
JS
cat > node_modules/starter/index.js <<'JS'
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";

function plain(name) {
  const path = `./workers/${name}`;
  return fileURLToPath(new URL(path, import.meta.url));
}

function hidden(name) {
  const path = `./workers/${name}`;
  return fileURLToPath(new URL(path, String(import.meta.url)));
}

function start(file) {
  return new Promise((resolve) => {
    const worker = new Worker(file);
    worker.once("message", resolve);
    worker.once("error", ({ code }) => resolve(code));
  });
}

export const both = async () => ({ plain: await start(plain("entry.mjs")), hidden: await start(hidden("entry.mjs")) });
JS
echo 'import { parentPort } from "node:worker_threads"; import { word } from "./word.mjs"; parentPort.postMessage(word);' > node_modules/starter/workers/entry.mjs
echo 'export const word = "runs";' > node_modules/starter/workers/word.mjs
cat > app/layout.js <<'JS'
export default function Layout({ children }) { return <html><body>{children}</body></html>; }
JS
cat > app/probe/route.js <<'JS'
import { both } from "starter";
export const dynamic = "force-dynamic";
export const GET = async () => Response.json(await both());
JS
export NEXT_TELEMETRY_DISABLED=1
echo 'import { both } from "starter"; console.log(JSON.stringify(await both()));' > main.mjs
echo "Node, by itself: $(node main.mjs)"
npx next build > build.log 2>&1 || { cat build.log; exit 1; }
port=$(node -e 'const s = require("net").createServer().listen(0, () => { console.log(s.address().port); s.close(); })')
node node_modules/next/dist/bin/next start -p "$port" > start.log 2>&1 &
trap 'kill %1 2> /dev/null || true; rm -rf "$dir"' EXIT
for _ in $(seq 100); do answer=$(curl -sf "http://127.0.0.1:$port/probe") && break; sleep 0.2; done
echo "Node $(node -v); next 16.4.6 with Turbopack: $answer"
[[ "$answer" == *'"plain":"'*'MODULE_NOT_FOUND"'* && "$answer" == *'"hidden":"runs"'* ]] || { echo "This has changed."; exit 1; }
