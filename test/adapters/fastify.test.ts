import assert from "node:assert/strict";
import { once } from "node:events";
import { Agent, type IncomingMessage, request as httpRequest } from "node:http";
import { connect } from "node:net";
import { PassThrough } from "node:stream";
import { text } from "node:stream/consumers";
import { after, before, test, type TestContext } from "node:test";
import createFastify, { type FastifyInstance, type FastifyServerOptions } from "fastify";
import redthread, { type FastifyRedthreadOptions } from "../../src/adapters/fastify.js";
import { ConnectionManager, type ManagerOptions } from "../../src/index.js";
import type * as Tasks from "../fixtures/tasks.js";
import { eventually } from "../support/gate.js";
import { leakCheck } from "../support/leak-check.js";
import { code, fixture } from "../support/manage.js";
import { silent } from "../support/silent.js";
import { freePort, startRedis, type RedisServer } from "../support/redis-server.js";

declare module "../../src/adapters/fastify.js" {
  interface FastifyTasks {
    tasks: typeof Tasks;
  }
}

const limit = { timeout: 60_000 };

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
after(() => server.stop());

function managerOptions(overrides: Partial<ManagerOptions> = {}): ManagerOptions {
  const common = { tasks: fixture("tasks"), env: {}, logger: silent, threads: { count: 1 } };
  return { ...common, redis: { port: server.port }, ...overrides };
}

/** It is closed after the test, and must leave nothing. */
async function build(
  t: TestContext,
  options: Partial<FastifyRedthreadOptions> = {},
  serverOptions: FastifyServerOptions = {},
): Promise<FastifyInstance> {
  const fastify = createFastify(serverOptions);
  t.after(() => fastify.close());
  leakCheck(t, server);
  await fastify.register(redthread, { manager: managerOptions(), ...options });
  return fastify;
}

interface Answer {
  readonly status: number;
  readonly body: string;
}

async function ask(url: string): Promise<Answer> {
  const request = httpRequest(url, { agent: false });
  request.end();
  const [response] = (await once(request, "response")) as [IncomingMessage];
  return { status: response.statusCode!, body: await text(response) };
}

test("a server that listens has a manager that is ready, typed by its tasks, in every plugin", limit, async (t) => {
  const fastify = await build(t);
  await fastify.register(async (scope) => {
    scope.get("/sum", async () => {
      const value: string | null = await scope.redthread.run("setAndGet", { key: "a", value: "7" });
      return { value };
    });
  });
  const url = await fastify.listen({ host: "127.0.0.1", port: 0 });
  assert.deepEqual(fastify.redthread.health(), { live: true, ready: true, reasons: [] });
  assert.deepEqual(JSON.parse((await ask(`${url}/sum`)).body), { value: "7" });
  // @ts-expect-error -- no such task
  await assert.rejects(fastify.redthread.run("sum"), code("TASK_NOT_FOUND"));
});

test(
  "the health route answers 200 when ready and 503 with the reasons when not, at the path it was given",
  limit,
  async (t) => {
    const fastify = await build(t, { health: "/livez" });
    const url = await fastify.listen({ host: "127.0.0.1", port: 0 });
    assert.deepEqual(await ask(`${url}/livez`), {
      status: 200,
      body: JSON.stringify({ live: true, ready: true, reasons: [] }),
    });
    assert.equal((await ask(`${url}/health`)).status, 404);
    await fastify.redthread.shutdown();
    const { status, body } = await ask(`${url}/livez`);
    assert.equal(status, 503);
    assert.deepEqual(JSON.parse(body), { live: false, ready: false, reasons: ["shut down"] });
  },
);

test("health: false leaves the routes to the user", limit, async (t) => {
  const fastify = await build(t, { health: false });
  assert.equal((await fastify.inject("/health")).statusCode, 404);
});

test(
  "closing turns health to 503 first, lets a request in progress finish its task, then shuts down",
  limit,
  async (t) => {
    const fastify = await build(t, { lameDuckMs: 400 }, { return503OnClosing: false });
    const order: string[] = [];
    fastify.get("/wait", async () => {
      const value = await fastify.redthread.run("waitForKey", "finish");
      order.push("answered");
      return { value };
    });
    fastify.get("/quick", async () => fastify.redthread.run("echo", "quick"));
    const url = await fastify.listen({ host: "127.0.0.1", port: 0 });
    const waiting = ask(`${url}/wait`);
    await eventually(() => fastify.redthread.stats().threads[0]!.running === 1, 10_000, "the task runs");

    const closed = fastify.close().then(() => order.push("closed"));
    const lame = await eventually(async () => {
      const answer = await ask(`${url}/health`);
      return answer.status === 503 && answer;
    });
    assert.deepEqual(JSON.parse(lame.body), { live: true, ready: false, reasons: ["the server is closing"] });
    assert.deepEqual(await ask(`${url}/quick`), { status: 200, body: "quick" });
    assert.equal(fastify.redthread.health().ready, true, "the manager still serves");

    await server.admin.set("finish", "done");
    assert.deepEqual(await waiting, { status: 200, body: JSON.stringify({ value: "done" }) });
    await closed;
    assert.deepEqual(order, ["answered", "closed"]);
    assert.equal(fastify.redthread.health().live, false);
    await server.waitForClients((clients) => clients.length === 0);
  },
);

/** A response to a client that keeps its connections; it is not read yet. */
async function begin(t: TestContext, url: string): Promise<IncomingMessage> {
  const agent = new Agent({ keepAlive: true });
  t.after(() => agent.destroy());
  const [response] = (await once(httpRequest(url, { agent }).end(), "response")) as [IncomingMessage];
  return response;
}

/** Long before Fastify's keepAliveTimeout of 72 s. */
const closes = (closed: Promise<unknown>): Promise<unknown> => eventually(() => closed, 20_000, "the server is closed");

test("a keep-alive client with a request in progress at close() is told to close its connection", limit, async (t) => {
  const fastify = await build(t);
  fastify.get("/wait", async () => {
    const value = await fastify.redthread.run("waitForKey", "released");
    return { value, further: await fastify.redthread.run("echo", "a further task") };
  });
  const url = await fastify.listen({ host: "127.0.0.1", port: 0 });
  const waiting = begin(t, `${url}/wait`);
  await eventually(() => fastify.redthread.stats().threads[0]!.running === 1, 10_000, "the task runs");
  const closed = fastify.close();
  await eventually(() => !fastify.server.listening, 10_000, "it takes no more connections");
  await server.admin.set("released", "yes");
  const response = await waiting;
  assert.equal(response.headers.connection, "close");
  assert.deepEqual(JSON.parse(await text(response)), { value: "yes", further: "a further task" });
  await closes(closed);
});

test("the connection of an answer that had begun before close() is closed behind it", limit, async (t) => {
  const fastify = await build(t);
  const body = new PassThrough();
  fastify.get("/stream", (_request, reply) => reply.send(body));
  const url = await fastify.listen({ host: "127.0.0.1", port: 0 });
  body.write("one, ");
  const response = await begin(t, `${url}/stream`);
  const closed = fastify.close();
  await eventually(() => !fastify.server.listening, 10_000, "it takes no more connections");
  body.end("two");
  assert.equal(await text(response), "one, two");
  await closes(closed);
});

test(
  "requests, answers and silent clients that never end are cut when the time of the shutdown is over",
  limit,
  async (t) => {
    const manager = managerOptions({ shutdown: { drainMs: 300, closeMs: 300 } });
    const fastify = await build(t, { manager });
    const body = new PassThrough();
    fastify.get("/stream", (_request, reply) => reply.send(body));
    fastify.get("/never", () => new Promise(() => {}));
    fastify.get("/task", async () => fastify.redthread.run("waitForKey", "never"));
    const url = await fastify.listen({ host: "127.0.0.1", port: 0 });
    body.write("one, ");
    const stream = text(await begin(t, `${url}/stream`)); // like server-sent events
    const never = begin(t, `${url}/never`);
    const task = begin(t, `${url}/task`);
    const silentClient = connect(Number(new URL(url).port), "127.0.0.1"); // like a browser's spare connection
    const hungUp = once(silentClient, "close");
    await eventually(() => fastify.redthread.stats().threads[0]!.running === 1, 10_000, "the task runs");
    const cut = [assert.rejects(stream), assert.rejects(never)];
    await closes(fastify.close());
    const answer = await task;
    assert.equal(answer.statusCode, 500);
    assert.match(await text(answer), /REDTHREAD_TASK_ABORTED/);
    await Promise.all([...cut, hungUp]);
  },
);

test("an existing manager is used as it is, and ends with the server", limit, async (t) => {
  const manager = new ConnectionManager<typeof Tasks>(managerOptions());
  const fastify = await build(t, { manager });
  await fastify.ready();
  assert.equal(fastify.redthread, manager);
  await fastify.close();
  assert.equal(manager.health().live, false);
});

test("a manager that cannot get ready fails the start, and leaves nothing open", limit, async (t) => {
  const unreachable = managerOptions({ redis: { port: await freePort() }, retry: { deadlineMs: 200 } });
  const fastify = await build(t, { manager: unreachable });
  await assert.rejects(fastify.listen({ host: "127.0.0.1", port: 0 }), code("CONNECT_FAILED"));
  assert.equal(fastify.redthread.health().live, false);
});

test("the start fails for its own reason before fastify's limit, and leaves nothing open", limit, async (t) => {
  const unreachable = managerOptions({ redis: { port: await freePort() } });
  const fastify = await build(t, { manager: unreachable }, { pluginTimeout: 2_500 });
  await assert.rejects(fastify.listen({ host: "127.0.0.1", port: 0 }), code("CONNECT_FAILED"));
  assert.equal(fastify.redthread.health().live, false);
});

test("with awaitReady: false the server starts without Redis and says so in its health", limit, async (t) => {
  const unreachable = managerOptions({ redis: { port: await freePort() }, retry: { deadlineMs: 200 } });
  const fastify = await build(t, { manager: unreachable, awaitReady: false });
  const url = await fastify.listen({ host: "127.0.0.1", port: 0 });
  assert.equal((await ask(`${url}/health`)).status, 503);
});

test("wrong options fail the registration, all of them by name", limit, async (t) => {
  const fastify = createFastify();
  t.after(() => fastify.close());
  const wrong = { manager: undefined, lameDuckMs: -1 } as never;
  await assert.rejects(
    async () => fastify.register(redthread, wrong),
    (error: Error & { problems: string[] }) => {
      assert.deepEqual(
        error.problems.map((problem) => problem.split(":")[0]),
        ["manager", "lameDuckMs"],
      );
      return code("CONFIG_INVALID")(error);
    },
  );
});

test("the dashboard is served through a hijacked reply", limit, async (t) => {
  const fastify = await build(t);
  const show = fastify.redthread.dashboard({ path: "/ops/redthread" });
  fastify.get("/ops/redthread", (request, reply) => {
    reply.hijack();
    return show(request.raw, reply.raw);
  });
  const url = await fastify.listen({ host: "127.0.0.1", port: 0 });
  assert.match((await ask(`${url}/ops/redthread`)).body, /^<!doctype html>/);
  const { health } = JSON.parse((await ask(`${url}/ops/redthread?stats=`)).body) as { health: object };
  assert.deepEqual(health, { live: true, ready: true, reasons: [] });
});
