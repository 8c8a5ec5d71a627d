import assert from "node:assert/strict";
import { once } from "node:events";
import { after, before, test, type TestContext } from "node:test";
import { Worker } from "node:worker_threads";
import { leakCheck } from "../support/leak-check.js";
import { fixture } from "../support/manage.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
after(() => server.stop());

function bare(t: TestContext, env: NodeJS.ProcessEnv): (question: string) => Promise<unknown> {
  const worker = new Worker(fixture("bare-thread"), {
    env: { ...env, NODE_V8_COVERAGE: process.env["NODE_V8_COVERAGE"] },
  });
  t.after(async () => {
    const gone = once(worker, "exit");
    worker.postMessage("end"); // its clients are closed, so that nothing keeps it
    await gone;
  });
  leakCheck(t, server);
  return async (question) => {
    const answered = once(worker, "message");
    worker.postMessage(question);
    return ((await answered) as unknown[])[0];
  };
}

test("in a thread that no manager started, getRedis() takes its configuration from the environment", async (t) => {
  const ask = bare(t, { REDIS_URL: server.url, REDTHREAD_APP_NAME: "bare" });
  const { shared, names } = (await ask("names")) as { shared: boolean; names: string[] };
  assert.equal(shared, true);
  assert.match(names[0]!, /^redthread:bare:.*:thread$/);
  assert.match(names[1]!, /^redthread:bare:.*:dedicated$/);
  assert.equal((await server.clients()).length, 2);
});

test("disconnect() closes the clients of such a thread, is idempotent, and the next getRedis() connects anew", async (t) => {
  const ask = bare(t, { REDIS_URL: server.url });
  await ask("disconnect"); // there is nothing to close, and nothing is opened
  assert.deepEqual(await server.clients(), []);
  await ask("names");
  await ask("disconnect");
  await ask("disconnect");
  assert.deepEqual(await server.clients(), []);
  await ask("names");
  assert.equal((await server.clients()).length, 2);
});

test("a wrong environment is CONFIG_INVALID for all waiting calls, and after its repair getRedis() works", async (t) => {
  const ask = bare(t, { REDIS_PORT: "none", MENDED_URL: server.url });
  assert.deepEqual(await ask("fail"), ["REDTHREAD_CONFIG_INVALID", "REDTHREAD_CONFIG_INVALID"]);
  await ask("disconnect"); // a wrong configuration opened nothing
  assert.equal(await ask("mend"), "PONG");
});
