import assert from "node:assert/strict";
import { after, before, test, type TestContext } from "node:test";
import { connect, disconnect } from "../../src/index.js";
import { leakCheck } from "../support/leak-check.js";
import { code } from "../support/manage.js";
import { Program } from "../support/program.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
after(() => server.stop());

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** An owned client. All that ioredis' documentation teaches must work on it, with promises and with callbacks. */
function own(t: TestContext): ReturnType<typeof connect> {
  leakCheck(t, server);
  return connect({ env: {}, redis: { port: server.port } });
}

test("callbacks are called, also by connect and quit", async (t) => {
  const redis = await own(t);
  const answer = await new Promise((resolve) => {
    void redis.set("k", "v", (error, reply) => resolve([error, reply]));
  });
  assert.deepEqual(answer, [null, "OK"]);
  const connected = await new Promise((resolve) => void redis.connect((error) => resolve(error)));
  assert.equal(connected, null);
  const piped = await new Promise((resolve) => {
    void redis
      .pipeline()
      .get("k")
      .exec((error, replies) => resolve([error, replies]));
  });
  assert.deepEqual(piped, [null, [[null, "v"]]]);
  const quit = await new Promise((resolve) => {
    void redis.quit((error, reply) => resolve([error, reply]));
  });
  assert.deepEqual(quit, [null, "OK"]);
  const late = await new Promise<unknown>((resolve) => void redis.connect((error) => resolve(error)).catch(() => {}));
  assert.ok(code("NOT_SENT")(late));
});

test("a pipeline runs once, also with a transaction inside, and still tells its length afterwards", async (t) => {
  const redis = await own(t);
  const inside = redis.pipeline([["multi"], ["incr", "runs"]]);
  assert.equal(inside.exec(), inside); // this EXEC ends the transaction
  inside.incr("runs");
  assert.deepEqual(
    (await inside.exec())!.map(([, reply]) => reply),
    ["OK", "QUEUED", [1], 2],
  );
  for (const pipeline of [redis.pipeline().incr("runs"), redis.multi().incr("runs"), inside]) {
    if (pipeline !== inside) await pipeline.exec();
    const { length } = pipeline;
    assert.ok(length > 0);
    await assert.rejects(pipeline.exec(), /has run, and its commands would run a second time/);
    const error = await new Promise((resolve) => void pipeline.exec(resolve));
    assert.ok(error instanceof TypeError);
    assert.equal(pipeline.length, length);
  }
  assert.equal(await redis.get("runs"), "4");
  await disconnect(redis);
});

test("a second exec() while the first is under way does not send the commands again", async (t) => {
  const redis = await own(t);
  const pipeline = redis.pipeline().incr("under way");
  const first = pipeline.exec();
  await assert.rejects(pipeline.exec(), TypeError);
  assert.deepEqual(await first, [[null, 1]]);
  await disconnect(redis);
});

test("pipelines that have run do not become long-lived with their commands and replies", async (t) => {
  await server.admin.set("k", "x".repeat(100));
  const { kbEach } = await new Program(t, "many-pipelines", [String(server.port)]).hears("kbEach", 120_000);
  // With commands and replies it would be 50; it is 2, or 6 if scavenges come in the middle of pipelines.
  assert.ok(Number(kbEach) < 10, `${String(kbEach)} kB of each pipeline of 50 commands are kept`);
});

for (const end of ["disconnect", "end", "quit"] as const) {
  test(`${end}() ends an owned client, and disconnect(client) after it changes nothing`, async (t) => {
    const redis = await own(t);
    const written = redis.set("last", end);
    await redis[end]();
    await disconnect(redis);
    assert.equal(await written, "OK");
    assert.deepEqual(await server.clients(), []);
    await assert.rejects(redis.get("last"), code("NOT_SENT"));
  });
}

test("disconnect() refuses a client that is not redthread's", async () => {
  await assert.rejects(disconnect(server.admin), code("CONFIG_INVALID"));
});

test("MONITOR runs on the client itself, and no second connection is opened", async (t) => {
  const redis = await own(t);
  const lines: string[][] = [];
  const monitor = await redis.monitor();
  assert.equal(monitor, redis);
  const monitored = new Promise<void>((resolve) => {
    monitor.on("monitor", (_time: string, args: string[]) => {
      lines.push(args);
      if (args[0] === "echo") resolve();
    });
  });
  await server.admin.echo("hello");
  await monitored;
  assert.deepEqual(lines.at(-1), ["echo", "hello"]);
  assert.equal((await server.clients()).length, 1);
  await disconnect(redis);
});

test("a connection lost in the turn of its first answer is made again, and the commands that waited for it are sent", async (t) => {
  const redis = await own(t);
  let answers = 0;
  // The client's own PING is the only command that is answered between the connect and the first command.
  const asking = redis as unknown as { own(name: string, ...args: string[]): Promise<unknown> };
  const ask = asking.own.bind(redis);
  asking.own = async (name, ...args) => {
    const reply = await ask(name, ...args);
    if (name === "ping" && answers++ === 0) {
      redis.stream.destroy();
      await turn(); // its close event passes
    }
    return reply;
  };
  redis.stream.destroy();
  await turn();
  assert.equal(await redis.set("held", 1), "OK");
  assert.equal(answers, 2);
  await disconnect(redis);
});

async function received(): Promise<number> {
  return Number(/total_connections_received:(\d+)/.exec(await server.admin.info("stats"))![1]);
}

test("a loss that a caller notices before the close event leads to one attempt, not to two", async (t) => {
  const redis = await own(t);
  for (let round = 0; round < 20; round++) {
    const receivedBefore = await received();
    redis.stream.destroy();
    await redis.connect();
    const id = await redis.client("ID");
    for (let i = 0; i < 5; i++) assert.equal(await redis.client("ID"), id);
    assert.equal((await received()) - receivedBefore, 1);
  }
  await disconnect(redis);
});
