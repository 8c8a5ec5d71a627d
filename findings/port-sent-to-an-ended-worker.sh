#!/usr/bin/env bash
# A port that is transferred to a worker that has just ended tells its peer nothing; the same port sent over another port does.
#
# A MessagePort is how two threads notice each other's end: when one side goes, the other side gets "close". That holds for a port
# that the worker has received, and for a port that still lies unread in its queue when it ends. One would expect the same for a
# port that comes too late, when the worker has just ended: nobody can ever receive it. `worker.postMessage()` drops such a
# message in silence and keeps what was transferred, so that the sender's end stays open without a peer. If the same message goes
# over a MessagePort of that worker instead, the transferred port is closed, and its peer is told.
# Between the end of a thread and the "exit" event in the main thread there is always a moment in which this happens: a supervisor
# that counts on "close" alone waits for ever for such a thread, and has to look at "exit" as well.
#
# Seen:
#   Node v20.20.2: received "close", unread "close", too late nothing, too late over a port "close"
#   Node v24.21.0: received "close", unread "close", too late nothing, too late over a port "close"
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm init -y > /dev/null
npm install --no-audit --no-fund --loglevel=error node@24.21.0 > /dev/null
cat > main.mjs <<'JS'
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { MessageChannel, Worker } from "node:worker_threads";

const receiver = `
  const { parentPort } = require("node:worker_threads");
  parentPort.on("message", ({ port, computeMs = 0 }) => {
    for (const end = Date.now() + computeMs; Date.now() < end; );
    globalThis.received = port;
    if (port) parentPort.postMessage("received");
  });
`;

/** What the main thread's end of a channel is told, whose other end `send` gives to a worker. */
async function told(send) {
  const worker = new Worker(receiver, { eval: true });
  await once(worker, "online");
  const { port1, port2 } = new MessageChannel();
  const closed = once(port1, "close").then(() => '"close"');
  port1.start();
  await send(worker, port2);
  const result = await Promise.race([closed, sleep(2_000, "nothing")]);
  port1.close();
  return result;
}

const give = (to, port) => to.postMessage({ port }, [port]);
const received = await told(async (worker, port) => {
  give(worker, port);
  await once(worker, "message");
  await worker.terminate();
});
const unread = await told(async (worker, port) => {
  worker.postMessage({ computeMs: 1_000 });
  await sleep(200);
  give(worker, port);
  await worker.terminate();
});
const late = await told(async (worker, port) => {
  await worker.terminate();
  give(worker, port);
});
const lateOverPort = await told(async (worker, port) => {
  const way = new MessageChannel();
  give(worker, way.port2);
  await once(worker, "message");
  await worker.terminate();
  give(way.port1, port);
});
console.log(
  `Node ${process.version}: received ${received}, unread ${unread}, too late ${late}, too late over a port ${lateOverPort}`,
);
const isAsSeen = [received, unread, late, lateOverPort].join() === '"close","close",nothing,"close"';
process.exit(isAsSeen ? 0 : 1);
JS
node main.mjs || { echo "This has changed."; exit 1; }
node_modules/.bin/node main.mjs || { echo "This has changed."; exit 1; }
