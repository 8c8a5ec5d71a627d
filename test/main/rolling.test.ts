import assert from "node:assert/strict";
import { once } from "node:events";
import { Agent, type IncomingMessage, request } from "node:http";
import { text } from "node:stream/consumers";
import { test, type TestContext } from "node:test";
import type { WebServiceArgument } from "../fixtures/web-service.js";
import { eventually } from "../support/gate.js";
import { Program } from "../support/program.js";
import { startRedis } from "../support/redis-server.js";

const PROCESSES = 4;
const CLIENTS = 16;
const LAME_DUCK_MS = 1_000;
/** The time of its lame duck and the defaults: drainMs + closeMs + 500 ms. */
const BUDGET_MS = LAME_DUCK_MS + 12_500;
const WAIT_MS = 40_000;

interface Process {
  readonly program: Program;
  readonly url: string;
}

/** Like a load balancer: asks each process for its health, and sends requests only to processes that are ready. */
class Balancer {
  /** Keeps its connections open. */
  readonly #agent = new Agent({ keepAlive: true });
  readonly #ready = new Set<string>();
  #turns = 0;

  close(): void {
    this.#agent.destroy();
  }

  async isReady(url: string): Promise<boolean> {
    const isReady = await this.#ask(`${url}/health`).then(
      ({ status }) => status === 200,
      () => false,
    );
    if (isReady) this.#ready.add(url);
    else this.#ready.delete(url);
    return isReady;
  }

  async send(path: string): Promise<string> {
    const urls = [...this.#ready];
    const { status, body } = await this.#ask(urls[this.#turns++ % urls.length]! + path);
    assert.equal(status, 200, body);
    return body;
  }

  async #ask(url: string): Promise<{ status: number; body: string }> {
    const [response] = (await once(request(url, { agent: this.#agent }).end(), "response")) as [IncomingMessage];
    return { status: response.statusCode!, body: await text(response) };
  }
}

test(
  "a rolling restart of four servers under load fails no request, and each process is gone within its budget",
  { timeout: 280_000 },
  async (t) => {
    const server = await startRedis();
    t.after(() => server.stop());
    const balancer = new Balancer();
    t.after(() => balancer.close());
    const olds = await Promise.all(Array.from({ length: PROCESSES }, () => start(t, server.port, balancer)));

    const failures: unknown[] = [];
    const answered = { quick: 0, slow: 0 };
    let isOver = false;
    const client = async (path: "quick" | "slow"): Promise<void> => {
      while (!isOver) {
        try {
          assert.equal(await balancer.send(`/${path}`), path);
          answered[path]++;
        } catch (error) {
          failures.push(error);
        }
      }
    };
    const clients = Array.from({ length: CLIENTS }, (_, i) => client(i % 2 === 0 ? "quick" : "slow"));
    for (const old of olds) {
      await start(t, server.port, balancer);
      const before = answered.slow;
      await eventually(() => answered.slow > before + CLIENTS, WAIT_MS, "all of them are under load");
      await end(old, balancer);
    }
    isOver = true;
    await Promise.all(clients);
    assert.deepEqual(failures, []);
    assert.ok(answered.quick > answered.slow);
  },
);

async function start(t: TestContext, redis: number, balancer: Balancer): Promise<Process> {
  const argument: WebServiceArgument = { redis, lameDuckMs: LAME_DUCK_MS };
  const program = new Program(t, "web-service", argument);
  const { url } = (await program.hears("url", WAIT_MS)) as { url: string };
  await eventually(() => balancer.isReady(url), WAIT_MS, "the new process is ready");
  return { program, url };
}

async function end({ program, url }: Process, balancer: Balancer): Promise<void> {
  program.signal("SIGTERM");
  await eventually(async () => !(await balancer.isReady(url)), WAIT_MS, "the old process says that it is not ready");
  const { code, ms, stderr } = await program.exit;
  assert.deepEqual([code, stderr], [0, ""]);
  assert.ok(ms < BUDGET_MS, `gone after ${Math.round(ms)} ms`);
}
