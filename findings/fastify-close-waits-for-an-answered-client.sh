#!/usr/bin/env bash
# fastify.close() waits for the keep-alive timeout of a client whose request was under way when it was called.
#
# close() hangs up on connections that are idle at that moment, and answers the requests that are under way. Their answers
# still say `connection: keep-alive`. When such a connection becomes idle a moment later nothing closes it: close() waits until
# `keepAliveTimeout` is over, 72 s by default. One would expect close() to resolve once the last request is answered, because
# requests that come after its call are answered with `connection: close`. It matters in every rolling restart: a pod that had
# one request under way, from a proxy that keeps its connections, does not end within 30 s and is killed.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm init -y > /dev/null
npm install --no-audit --no-fund --loglevel=error fastify@5.12.8 > /dev/null
cat > main.mjs <<'JS'
import { Agent, get } from "node:http";
import fastify from "fastify";

/** From the answer of the only request until close() is done. */
async function measure(isTold) {
  const app = fastify({ keepAliveTimeout: 4_000 });
  let isClosing = false;
  if (isTold) app.addHook("onSend", async (_request, reply) => { if (isClosing) reply.header("connection", "close"); });
  app.get("/", () => new Promise((resolve) => setTimeout(resolve, 500, "done")));
  const url = await app.listen({ port: 0, host: "127.0.0.1" });
  const agent = new Agent({ keepAlive: true });
  const answered = new Promise((resolve, reject) => {
    get(url, { agent }, (response) => response.resume().once("end", () => resolve(response.headers.connection))).once("error", reject);
  });
  await new Promise((resolve) => setTimeout(resolve, 100));
  isClosing = true;
  const closed = app.close();
  const connection = await answered;
  const from = performance.now();
  await closed;
  agent.destroy();
  return { connection, ms: Math.round(performance.now() - from) };
}

const plain = await measure(false);
const told = await measure(true);
console.log(`Node ${process.version}, fastify 5.12.8, keepAliveTimeout 4 000 ms`);
console.log(`as it is: the answer says "${plain.connection}", close() is done ${plain.ms} ms after it`);
console.log(`told by a hook of one's own: "${told.connection}", ${told.ms} ms after it`);
if (plain.connection !== "keep-alive" || plain.ms < 2_500 || told.ms > 2_000) { console.log("This has changed."); process.exit(1); }
JS
node main.mjs
# Seen: Node v20.20.2, fastify 5.12.8, keepAliveTimeout 4 000 ms
#       as it is: the answer says "keep-alive", close() is done 4999 ms after it
#       told by a hook of one's own: "close", 0 ms after it
