import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { availableCores } from "../../src/config/capacity.js";
import { loadConfig } from "../../src/config/env.js";
import { ConfigInvalidError } from "../../src/core/errors.js";
import { OPTION_PATHS, variableOf } from "../../src/config/option-table.js";
import { freezeConfig, type Config, type ConnectOptions, type ManagerOptions } from "../../src/config/options.js";

test("without options everything has the documented default", () => {
  assert.deepEqual(load({ threads: { count: 3 } }), {
    appName: "app",
    redis: {
      host: "127.0.0.1",
      port: 6379,
      db: 0,
      tls: false,
      keyPrefix: "",
      scripts: {},
      ioredis: {},
      connectTimeoutMs: 10_000,
      commandTimeoutMs: 5_000,
      idleCheckMs: 500,
      heartbeatMs: 10_000,
      whenDown: "wait",
      resend: "never",
      readFrom: "master",
    },
    primary: { ttlMs: 3_600_000, jitter: 0.1 },
    threads: { count: 3, concurrency: 32, startTimeoutMs: 10_000 },
    dedicated: { max: 4, acquireTimeoutMs: 30_000, idleTimeoutMs: 600_000, maxLifetimeMs: 1_800_000 },
    nearCache: { maxBytes: 2 ** 26, ownTableBytes: 2 ** 20, maxValueBytes: 2 ** 16, maxStaleMs: 250, maxAgeMs: 60_000 },
    retry: { deadlineMs: 30_000, baseDelayMs: 50, maxDelayMs: 1_000, attempts: Infinity },
    connections: { connecting: 4 },
    queue: { max: 10_000 },
    shutdown: { lameDuckMs: 0, drainMs: 10_000, closeMs: 2_000, cancelGraceMs: 1_000, handleSignals: false },
    log: { level: "info", format: "json" },
  });
});

test("every wrong option is named in one error, by path and source, with what is allowed", () => {
  const options: unknown = {
    redis: { port: 70_000, db: "1", hots: "x", connectTimeout: 3 },
    threads: 4,
    concurrency: 2,
    budget: {},
    dedicated: { acquireTimeoutMs: 249 },
    primary: { jitter: Number.NaN },
    log: { level: "wran" },
    logger: { info() {} },
  };
  assert.deepEqual(problemsOf(options), [
    'redis.hots (option): unknown option (did you mean "host"?)',
    "redis.connectTimeout (option): is refused: use redis.connectTimeoutMs, which covers the handshake too",
    "threads (option): must be an object, got a number",
    'concurrency (option): unknown option (did you mean "threads.concurrency"?)',
    "budget (option): unknown option",
    "logger (option): must have the methods error, warn, info, debug",
    "redis.port (option): must be a whole number from 1 to 65535, got 70000",
    "redis.db (option): must be a whole number from 0 to 2147483647, got text",
    "primary.jitter (option): must be a number from 0 to 0.5, got NaN",
    "dedicated.acquireTimeoutMs (option): must be a whole number of at least 250, got 249",
    'log.level (option): must be "error" or "warn" or "info" or "debug", got text (did you mean "warn"?)',
  ]);
});

test("options that are right alone and wrong together are named", () => {
  const problems = problemsOf({
    redis: { host: "a", path: "/tmp/redis.sock", tls: { cert: "c" }, ioredis: { protocol: 2, replyMapping: "resp3" } },
    retry: { baseDelayMs: 10, maxDelayMs: 5 },
    connections: { max: 4 },
    threads: { count: 3 },
  });
  assert.deepEqual(problems, [
    "redis.path (option): conflicts with redis.host (option): give one of them",
    "retry.baseDelayMs: must not exceed retry.maxDelayMs (10 > 5)",
    "connections.max: must be at least 5: one for each thread, one for the primary client, one for its rotation",
    'redis.ioredis.replyMapping: "resp3" needs protocol 3, which is the default',
    "redis.tls: cert and key go together, one of them is missing",
  ]);
});

test("an ioredis option that would break a promise is refused with the reason, a harmless option is passed on", () => {
  const { redis } = load({ redis: { ioredis: { family: 6, noDelay: false, clientInfoTag: "shop_v1" } } });
  assert.deepEqual(redis.ioredis, { family: 6, noDelay: false, clientInfoTag: "shop_v1" });
  const refused = { retryStrategy: () => 1, enableOfflineQueue: true, password: "hunter2", newInVersion7: 1 };
  assert.deepEqual(problemsOf({ redis: { ioredis: refused } }), [
    "redis.ioredis.retryStrategy (option): is refused: redthread alone reconnects, see retry.*",
    "redis.ioredis.enableOfflineQueue (option): is refused: a command waits in redthread's hands, see redis.whenDown",
    "redis.ioredis.password (option): is refused: it belongs beside redis.ioredis, not into it",
    "redis.ioredis.newInVersion7 (option): unknown option",
  ]);
});

test("a function among the options is refused, because it cannot cross to threads", () => {
  const problems = problemsOf({ redis: { tls: { checkServerIdentity() {} }, username: () => "me" } });
  assert.equal(problems.length, 2);
  for (const problem of problems) assert.match(String(problem), /a function, which cannot cross to threads/);
});

test("scripts need a name that can be a method, and their source", () => {
  const scripts = { add: { lua: "return 1", numberOfKeys: 1, readOnly: true } };
  assert.deepEqual(load({ redis: { scripts } }).redis.scripts, scripts);
  const wrong: unknown = JSON.parse(
    '{ "redis": { "scripts": { "no-dash": { "lua": "x" }, "__proto__": {}, "b": 1 } } }',
  );
  assert.equal(problemsOf(wrong).length, 3);
});

test("the app's name is made fit for a connection name", () => {
  assert.equal(load({ appName: "my shop:ü/1" }).appName, "my-shop---1");
  assert.equal(load({ appName: "x".repeat(99) }).appName.length, 64);
});

test("the tasks module is a file URL or an absolute path, and a manager needs one", () => {
  const href = new URL("./tasks.js", import.meta.url).href;
  assert.equal(load({ tasks: new URL(href) }).tasks, href);
  assert.equal(load({ tasks: href }).tasks, href);
  assert.equal(load({ tasks: "/srv/a b/tasks.js" }).tasks, "file:///srv/a%20b/tasks.js");
  for (const tasks of ["./tasks.js", "https://x/tasks.js", new URL("data:text/javascript,1"), 3]) {
    assert.match(problemsOf({ tasks }).join(), /^tasks \(option\): must be a file URL/);
  }
  assert.throws(() => loadConfig({ tasks: "", env: {} }, { requireTasks: true }), /tasks \(option\)/);
});

test("the configuration is frozen in depth, crosses to a thread, and is frozen again there", () => {
  const config = load({
    redis: { tls: { ca: Buffer.from("ca"), rejectUnauthorized: false } },
    threads: { execArgv: ["-r"] },
  });
  const crossed = freezeConfig(structuredClone(config));
  assert.deepEqual(crossed, config);
  for (const frozen of [config, config.redis.tls, crossed.redis, crossed.threads.execArgv]) {
    assert.ok(Object.isFrozen(frozen));
  }
});

test("changing the options afterwards changes nothing", () => {
  const ca = Buffer.from("ca");
  const scripts = { add: { lua: "return 1" } };
  const config = load({ redis: { tls: { ca }, scripts } });
  ca.fill(0);
  scripts.add.lua = "return 2";
  assert.equal(config.redis.scripts["add"]?.lua, "return 1");
  assert.deepEqual(config.redis.tls, { ca: Uint8Array.from([99, 97]) });
});

test("the default thread count is the number of usable cores: the affinity, limited by a cgroup's quota", () => {
  assert.equal(cores({}), 8);
  assert.equal(cores({ "/sys/fs/cgroup/cpu.max": "max 100000\n" }), 8);
  assert.equal(cores({ "/sys/fs/cgroup/cpu.max": "250000 100000\n" }), 2);
  assert.equal(cores({ "/sys/fs/cgroup/cpu.max": "50000 100000\n" }), 1);
  const nested = { "/proc/self/cgroup": "0::/a/b.service\n", "/sys/fs/cgroup/a/b.service/cpu.max": "max 100000\n" };
  assert.equal(cores({ ...nested, "/sys/fs/cgroup/a/cpu.max": "300000 100000\n" }), 3);
  const v1 = "/sys/fs/cgroup/cpu/cpu.cfs";
  assert.equal(cores({ [`${v1}_quota_us`]: "-1\n", [`${v1}_period_us`]: "100000\n" }), 8);
  assert.equal(cores({ [`${v1}_quota_us`]: "400000\n", [`${v1}_period_us`]: "100000\n" }), 4);
  assert.ok(load({}).threads.count >= 1);
});

test("the examples of the documentation type-check", () => {
  const options: ManagerOptions = { tasks: new URL("./tasks.js", import.meta.url) };
  const password: string | undefined = undefined;
  const more = { redis: { host: "h", password, tls: true }, threads: { count: 2 } } satisfies ConnectOptions;
  const config: Config & { tasks: string } = loadConfig({ ...options, ...more, env: {} }, { requireTasks: true });
  assert.ok(config.tasks.startsWith("file:"));
});

test("any options give a Config or one ConfigInvalidError, which never shows a secret", () => {
  const secret = "hunter2-very-secret";
  const name = fc.constantFrom(...OPTION_PATHS.map(variableOf), "REDIS_URL", "REDIS_PORT", "LOG_LEVEL", "REDTHREAD_X");
  const text = fc.oneof(
    fc.string(),
    fc.constantFrom(
      secret,
      `redis://u:${secret}@h:1/2`,
      `rediss://:${secret}@[::1`,
      `redis://${secret}%@h/x?y#z`,
      "1",
      "yes",
    ),
  );
  const value = fc.oneof(fc.anything(), text, fc.integer(), fc.constant([secret]), fc.constant({ key: secret, ca: 1 }));
  const leaves = [...new Set(OPTION_PATHS.flatMap((path) => path.split(".").slice(1)))];
  const group = fc.oneof(fc.anything(), fc.dictionary(fc.constantFrom(...leaves), value));
  const groups = fc.constantFrom(
    ...new Set(OPTION_PATHS.map((path) => path.split(".")[0]!)),
    "tasks",
    "logger",
    "colour",
  );
  fc.assert(
    fc.property(fc.dictionary(name, text), fc.dictionary(groups, group), (env, options) => {
      try {
        structuredClone(loadConfig({ ...options, env }, { cwd: "/nowhere" }));
      } catch (error) {
        assert.ok(error instanceof ConfigInvalidError, String(error));
        assert.ok(!`${error.message} ${JSON.stringify(error)}`.includes(secret), error.message);
      }
    }),
    { numRuns: 2_000 },
  );
});

/** The cores on a machine of eight cores with these files. */
function cores(files: Record<string, string>): number {
  const read = (path: string): string | undefined => files[path];
  return availableCores(read, () => 8);
}

function load(options: ConnectOptions & Partial<ManagerOptions>): Config {
  return loadConfig({ env: {}, ...options }, { cwd: "/nowhere" });
}

function problemsOf(options: unknown): unknown[] {
  try {
    loadConfig(Object.assign({ env: {} }, options), { cwd: "/nowhere" });
  } catch (error) {
    assert.ok(error instanceof ConfigInvalidError);
    const problems: unknown = Reflect.get(error, "problems");
    assert.ok(Array.isArray(problems));
    for (const problem of problems) assert.ok(error.message.includes(String(problem)));
    return problems;
  }
  return assert.fail("nothing was found wrong");
}
