import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { context } from "@opentelemetry/api";
import { AsyncLocalStorageContextManager } from "@opentelemetry/context-async-hooks";
import { InMemorySpanExporter, SimpleSpanProcessor, TracerProvider } from "@opentelemetry/sdk-trace";
import { instrument } from "../../src/adapters/otel.js";
import type * as Tasks from "../fixtures/instrumented-tasks.js";
import { manage } from "../support/manage.js";
import { plainSpans } from "../support/plain-spans.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
after(() => server.stop());

test("@opentelemetry/instrumentation-ioredis puts the spans of a thread's commands under the task's span, in the caller's trace", async (t) => {
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
  const exporter = new InMemorySpanExporter();
  const tracerProvider = new TracerProvider({ spanProcessors: [new SimpleSpanProcessor({ exporter })] });
  const tasks = new URL("../fixtures/instrumented-tasks.js", import.meta.url);
  const manager = manage<typeof Tasks>(t, server, { tasks, threads: { count: 1 }, redis: { idleCheckMs: 0 } });
  t.after(instrument(manager, { tracerProvider }));
  await manager.run("score", "41"); // the first one also has the spans of connecting
  await manager.run("spans");
  plainSpans(exporter);
  assert.equal(await manager.run("score", "42"), 1);
  const [run] = plainSpans(exporter);
  const inThread = await manager.run("spans");
  const task = inThread.find(({ name }) => name === "score")!;
  const commands = inThread.filter(({ parentId }) => parentId === task.spanId);
  assert.equal(task.parentId, run!.spanId);
  assert.deepEqual(
    commands.map(({ name }) => name),
    ["set", "incr", "get"],
    "without the PING of the check",
  );
  for (const { traceId, hasFailed } of commands) assert.deepEqual([traceId, hasFailed], [run!.traceId, false]);
});
