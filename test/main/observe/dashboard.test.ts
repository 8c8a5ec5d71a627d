import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { accessSync, constants } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, request as httpRequest, type RequestListener } from "node:http";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { text } from "node:stream/consumers";
import { after, before, test, type TestContext } from "node:test";
import { dashboard } from "../../../src/dashboard.js";
import type { ConnectionManager, Health, ManagerOptions, Stats } from "../../../src/index.js";
import type * as Tasks from "../../fixtures/tasks.js";
import { eventually } from "../../support/gate.js";
import { code, fixture, manage } from "../../support/manage.js";
import { portOf } from "../../support/proxy.js";
import { startRedis, type RedisServer } from "../../support/redis-server.js";

const SECRET = "hunter2-and-more";
const limit = { timeout: 60_000 };

let server: RedisServer;
before(async () => {
  server = await startRedis({ args: ["--requirepass", SECRET], observer: { password: SECRET } });
});
after(() => server.stop());

function managed(t: TestContext, options: Partial<ManagerOptions> = {}): ConnectionManager<typeof Tasks> {
  return manage<typeof Tasks>(t, server, { tasks: fixture("tasks"), ...options, redis: { password: SECRET } });
}

/** The url of a server that listens until the test is over. */
async function serve(t: TestContext, handler: RequestListener): Promise<string> {
  const http = createServer(handler).listen(0, "127.0.0.1");
  await once(http, "listening");
  t.after(() => {
    http.closeAllConnections();
    http.close();
  });
  return `http://127.0.0.1:${portOf(http)}`;
}

interface Answer {
  readonly status: number;
  readonly headers: Record<string, unknown>;
  readonly body: string;
}

/** Used in place of fetch, which keeps its connection open for the next test. */
async function ask(url: string, method = "GET"): Promise<Answer> {
  const request = httpRequest(url, { method, agent: false });
  request.end();
  const [response] = (await once(request, "response")) as [import("node:http").IncomingMessage];
  return { status: response.statusCode!, headers: response.headers, body: await text(response) };
}

interface Look {
  readonly at: number;
  readonly health: Health;
  readonly stats: Stats;
}

async function look(url: string): Promise<Look> {
  const { status, headers, body } = await ask(`${url}?stats`);
  assert.deepEqual([status, headers["content-type"]], [200, "application/json; charset=utf-8"]);
  return JSON.parse(body) as Look;
}

test("the dashboard's numbers are the manager's current ones, and no cache may store them", limit, async (t) => {
  const manager = managed(t);
  await manager.ready();
  const url = await serve(t, manager.dashboard());
  await manager.run("setAndGet", { key: "a", value: "1" });
  await assert.rejects(manager.run("fail", "on purpose"));
  const { health, stats } = await look(url);
  assert.deepEqual(health, manager.health());
  assert.equal(stats.threads.length, 2);
  const sum = (name: "done" | "failed"): number => stats.threads.reduce((total, thread) => total + thread[name], 0);
  assert.deepEqual([sum("done"), sum("failed")], [1, 1]);
  assert.deepEqual([stats.keeper, stats.near], [null, null]);
  await manager.withLock("shown", {}, async () => {});
  assert.equal((await look(url)).stats.keeper?.state, "connected");
  assert.equal((await ask(url)).headers["cache-control"], "no-store");
  assert.equal((await ask(`${url}?stats`)).headers["cache-control"], "no-store");
});

test("the page is small and complete, and its policy admits nothing else", limit, async (t) => {
  const manager = managed(t);
  const url = await serve(t, dashboard(manager, { title: `<b>"Orders"</b>`, intervalMs: 250 }));
  const { status, headers, body } = await ask(url);
  assert.deepEqual([status, headers["content-type"]], [200, "text/html; charset=utf-8"]);
  assert.ok(Buffer.byteLength(body) < 30_000, `${Buffer.byteLength(body)} bytes`);
  assert.ok(body.includes("<h1>&#60;b&#62;&#34;Orders&#34;&#60;/b&#62;</h1>"), "the title is text");
  assert.match(body, /data-interval-ms="250"/);
  assert.doesNotMatch(body, /\b(?:src|href)="(?!data:)|https?:|@import|url\(/, "nothing is loaded from elsewhere");
  const policy = String(headers["content-security-policy"]);
  assert.match(policy, /^default-src 'none'; /);
  assert.doesNotMatch(policy, /unsafe/);
  for (const [element, directive] of [
    ["script", "script-src"],
    ["style", "style-src"],
  ] as const) {
    const content = new RegExp(`<${element}>([\\s\\S]*?)</${element}>`).exec(body)![1]!;
    const hash = createHash("sha256").update(content).digest("base64");
    assert.ok(policy.includes(`${directive} 'sha256-${hash}'`), `the ${element} is admitted by its hash`);
  }
});

test(
  "the dashboard changes nothing: other methods are 405 with Allow, other paths 404, HEAD has no body",
  limit,
  async (t) => {
    const url = await serve(t, managed(t).dashboard({ path: "/ops/redthread/" }));
    for (const path of ["/ops/redthread", "/ops/redthread/", "/ops/redthread?token=1"]) {
      assert.equal((await ask(url + path)).status, 200, path);
    }
    for (const path of ["/", "/ops", "/ops/redthread/x", "/ops/redthreads", "//", "/ops/redthread/../x"]) {
      assert.equal((await ask(url + path)).status, 404, path);
    }
    for (const method of ["POST", "PUT", "DELETE", "OPTIONS"]) {
      const { status, headers } = await ask(`${url}/ops/redthread?stats`, method);
      assert.deepEqual([status, headers["allow"]], [405, "GET, HEAD"], method);
    }
    const head = await ask(`${url}/ops/redthread`, "HEAD");
    const get = await ask(`${url}/ops/redthread`);
    assert.deepEqual([head.status, head.body], [200, ""]);
    assert.equal(head.headers["content-length"], String(Buffer.byteLength(get.body)));
  },
);

test("the default path is right under a mount that removes its own path, as in Express", limit, async (t) => {
  const handler = managed(t).dashboard();
  const url = await serve(t, (request, response) => {
    request.url = request.url!.replace(/^\/redthread(?=[/?]|$)/, "").replace(/^(?!\/)/, "/");
    void handler(request, response);
  });
  assert.match((await ask(`${url}/redthread`)).body, /^<!doctype html>/);
  assert.equal((await look(`${url}/redthread`)).stats.threads.length, 2);
});

test("a request that was answered meanwhile is left alone", limit, async (t) => {
  const show = managed(t).dashboard();
  const shown: Promise<void>[] = [];
  const url = await serve(t, (request, response) => {
    const isEarly = request.url === "/";
    if (isEarly) shown.push(show(request, response)); // the page is still being loaded
    response.writeHead(503).end("somebody else");
    if (!isEarly) shown.push(show(request, response));
  });
  for (const path of ["/", "/?page", "/?stats", "/elsewhere"]) {
    const { status, body } = await ask(url + path);
    assert.deepEqual([status, body], [503, "somebody else"], path);
  }
  assert.equal(shown.length, 4);
  await Promise.all(shown);
});

test("no secret and no address is on the page or in its numbers", limit, async (t) => {
  const manager = managed(t);
  await manager.ready();
  const url = await serve(t, manager.dashboard());
  const shown = (await ask(url)).body + (await ask(`${url}?stats`)).body;
  for (const hidden of [SECRET, "127.0.0.1"]) assert.ok(!shown.includes(hidden));
});

test("an open dashboard delays neither the shutdown nor the exit, and shows both", limit, async (t) => {
  const manager = managed(t, { shutdown: { lameDuckMs: 300 } });
  await manager.ready();
  const url = await serve(t, manager.dashboard());
  const shutdown = manager.shutdown();
  const lame = await look(url);
  assert.deepEqual([lame.health.ready, lame.health.reasons], [false, ["shutting down"]]);
  await shutdown;
  const { health, stats } = await look(url);
  assert.deepEqual([health.live, health.reasons, stats.connections.open], [false, ["shut down"], 0]);
});

test("all wrong options are refused together, by name", limit, (t) => {
  const manager = managed(t);
  const wrong = { title: 1, intervalMs: 5, path: "ops" } as never;
  assert.throws(
    () => dashboard(manager, wrong),
    (error: Error & { problems: string[] }) =>
      code("CONFIG_INVALID")(error) &&
      error.problems.map((problem) => problem.split(":")[0]).join() === "title,intervalMs,path",
  );
});

function findBrowser(): string | undefined {
  const folders = (process.env["PATH"] ?? "").split(delimiter);
  const names = ["chromium", "chromium-browser", "google-chrome"];
  return names.flatMap((name) => folders.map((folder) => join(folder, name))).find(isExecutable);
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false; // this browser is not installed: the next candidate
  }
}

const browser = findBrowser();

const inBrowser = { ...limit, skip: browser === undefined && "no Chromium on the PATH to open the page with" };

/** What the page has become after 1.5 s of its own time. */
async function shownInBrowser(t: TestContext, url: string): Promise<{ dom: string; log: string }> {
  const profile = await mkdtemp(join(tmpdir(), "redthread-browser-"));
  t.after(() => rm(profile, { recursive: true, force: true, maxRetries: 5 }));
  const quiet = ["background-networking", "component-update", "sync", "gpu", "default-apps", "quic"];
  const args = ["--headless", "--no-sandbox", "--no-first-run", ...quiet.map((what) => `--disable-${what}`)];
  args.push(`--user-data-dir=${profile}`, "--virtual-time-budget=1500", "--enable-logging=stderr", "--dump-dom", url);
  const child = spawn(browser!, args, { stdio: ["ignore", "pipe", "pipe"] });
  const closed = once(child, "close");
  t.after(() => child.kill("SIGKILL"));
  const [dom, log] = await Promise.all([text(child.stdout), text(child.stderr)]);
  await eventually(() => closed, 10_000, "the browser ends");
  return { dom, log };
}

test("in a browser the page fills itself, under its own policy", inBrowser, async (t) => {
  const manager = managed(t);
  await manager.ready();
  await Promise.all(Array.from({ length: 20 }, (_, n) => manager.run("echo", n)));
  await manager.acquireLock("shown");
  await eventually(() => manager.stats().keeper?.held === 1, 5_000, "the lock is held");
  const url = await serve(t, manager.dashboard({ title: "Orders", intervalMs: 100 }));
  const { dom, log } = await shownInBrowser(t, url);
  assert.match(dom, /<h1>Orders<\/h1>/);
  assert.match(dom, /id="health"[^>]*data-tone="ok"[^>]*>Ready</);
  for (const { threadId } of manager.stats().threads) assert.ok(dom.includes(`id="thread-${threadId}"`), dom);
  assert.match(dom, /<div id="locks"><dt>Locks held<\/dt><dd><b id="held">1<\/b>[^/]*0 lost</);
  assert.match(dom, /<small id="keeper" data-tone="idle">keeper connected</);
  assert.match(dom, /id="rate-curve"[\s\S]*?<polyline points="/);
  assert.doesNotMatch(log, /Content Security Policy|Uncaught/, log);
});

test(
  "the page says at its top, on the card and among the events that no keeper extends the locks",
  inBrowser,
  async (t) => {
    const manager = managed(t);
    await manager.ready();
    await manager.acquireLock("shown");
    const keeper = manager.stats().keeper!;
    let looks = 0;
    const ending: Pick<ConnectionManager, "stats" | "health"> = {
      stats: () => ({
        ...manager.stats(),
        keeper: { ...keeper, held: 1, state: looks++ === 0 ? "connected" : "ended" },
      }),
      health: () => ({ live: true, ready: true, reasons: looks === 0 ? [] : ["no keeper runs"] }),
    };
    const { dom } = await shownInBrowser(t, await serve(t, dashboard(ending, { intervalMs: 100 })));
    assert.match(dom, /id="health"[^>]*data-tone="warn"[^>]*>Ready, but no keeper runs</);
    assert.match(dom, /<small id="keeper" data-tone="bad">keeper ended</);
    assert.match(dom, /<span>The manager is ready, but no keeper runs</);
    assert.match(dom, /<span>The keeper is now ended</);
  },
);

test("the page shows what the near cache does, and tells when it is off", inBrowser, async (t) => {
  const manager = managed(t, { nearCache: { prefixes: ["model:"] } });
  await eventually(() => manager.stats().near?.state === "on", 20_000, "it is on");
  const near = manager.stats().near!;
  const totals = { ...near.totals, hits: { own: 2, shared: 1 }, misses: 1 };
  let looks = 0;
  const ending: Pick<ConnectionManager, "stats" | "health"> = {
    stats: () => {
      const isOn = looks++ === 0;
      const word = isOn ? ({ state: "on", reason: null } as const) : ({ state: "off", reason: "INFO" } as const);
      return { ...manager.stats(), near: { ...near, totals, ...word } };
    },
    health: () => manager.health(),
  };
  const { dom, log } = await shownInBrowser(t, await serve(t, dashboard(ending, { intervalMs: 100 })));
  assert.match(
    dom,
    /<div id="near"><dt>Near cache, hits<\/dt><dd><b id="hits">75&nbsp;%<\/b>[^/]*of 4 reads, 0 invalidated, 0 of 64&nbsp;MB</,
  );
  assert.match(dom, /<small id="near-note" data-tone="warn">off: INFO</);
  assert.match(dom, /<span>The near cache is now off: INFO</);
  assert.doesNotMatch(log, /Content Security Policy|Uncaught/, log);
});

test("numbers that cannot be read are answered with 500, without an unhandled rejection", limit, async (t) => {
  const broken = {
    stats: () => {
      throw new Error("gone");
    },
    health: () => ({ live: true, ready: true, reasons: [] }),
  };
  const url = await serve(t, dashboard(broken));
  assert.equal((await ask(`${url}/?stats`)).status, 500);
});
