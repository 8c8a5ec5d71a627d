// A web service whose heavy work is done in threads: `REDIS_URL=redis://… PORT=3000 node main.mjs`
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import express from "express";
import { ConnectionManager } from "redthread";

/** After SIGTERM the service accepts work for this long, but says that it is not ready, so that load balancers look away. */
const LAME_DUCK_MS = Number(process.env["LAME_DUCK_MS"] ?? 5_000);
/** The HTTP status of redthread's errors that are not bugs. */
const STATUS = {
  REDTHREAD_QUEUE_FULL: 503,
  REDTHREAD_NOT_SENT: 503, // Redis is away
  REDTHREAD_CIRCUIT_OPEN: 503,
  REDTHREAD_CONNECT_FAILED: 503,
  REDTHREAD_COMMAND_TIMEOUT: 504,
  REDTHREAD_SHUTTING_DOWN: 503,
  REDTHREAD_TASK_ABORTED: 503,
  REDTHREAD_TASK_TIMEOUT: 504,
};

const manager = new ConnectionManager({ tasks: new URL("./tasks.mjs", import.meta.url) });
await manager.ready(); // otherwise the program ends here, with the reason

const app = express();
app.get("/live", (_request, response) => response.status(manager.health().live ? 200 : 503).json(manager.health()));
app.get("/ready", (_request, response) => response.status(manager.health().ready ? 200 : 503).json(manager.health()));

app.use((_request, response, next) => {
  if (!manager.health().ready) response.set("connection", "close"); // the next request goes elsewhere
  next();
});

app.get("/digest/:text", async (request, response) => {
  const left = new AbortController();
  response.once("close", () => left.abort()); // a client that has hung up wants no result; after the answer this aborts nothing
  const input = { text: request.params.text, rounds: Number(request.query["rounds"] ?? 1_000) };
  // By default a task that goes on computing would be ended with its thread, and so would other clients' tasks in it.
  const options = { signal: left.signal, timeoutMs: 10_000, cancel: "cooperative" };
  response.json(await manager.run("digest", input, options));
});

app.use((error, _request, response, next) => {
  if (response.headersSent) next(error);
  // The code, not the message, because a message may quote values.
  else response.status(STATUS[error.code] ?? 500).json({ error: error.code ?? "INTERNAL" });
});

const server = app.listen(Number(process.env["PORT"] ?? 3_000), () => {
  console.log(JSON.stringify({ listening: server.address().port }));
});

for (const signal of ["SIGTERM", "SIGINT"]) process.once(signal, () => void stop(signal));

/** Not ready; then no new connections; then requests and tasks under way end; then Redis is closed. Nothing is cut off. */
async function stop(reason) {
  const closed = once(server, "close"); // the requests under way are answered, and may run further tasks
  const shutdown = manager.shutdown({ reason, lameDuckMs: LAME_DUCK_MS, until: closed });
  await sleep(LAME_DUCK_MS);
  server.keepAliveTimeout = 1; // a connection is closed after its last answer
  server.close();
  const { tasks, threads } = await shutdown;
  server.closeAllConnections(); // connections that have not ended by now
  console.log(JSON.stringify({ stopped: reason, tasks, threads: threads.map(({ outcome }) => outcome) }));
}
