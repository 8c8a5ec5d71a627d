import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test, type TestContext } from "node:test";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import type { Finding, Report } from "../../src/cli/report.js";
import { ConnectionManager } from "../../src/index.js";
import { makeCertificates } from "../support/certificates.js";
import { eventually } from "../support/gate.js";
import { fixture } from "../support/manage.js";
import { silent } from "../support/silent.js";
import { freePort, startRedis, type RedisServer } from "../support/redis-server.js";
import { NAME, startSentinel } from "../support/sentinel.js";

const PROGRAM = fileURLToPath(new URL("../../src/cli/redthread.js", import.meta.url));
const SECRET = "hunter2-and-more";
const limit = { timeout: 30_000 };

let server: RedisServer;
let folder: string;

before(async () => {
  server = await startRedis();
  folder = await mkdtemp(join(tmpdir(), "redthread-doctor-")); // without a .env
});
after(async () => {
  await server.stop();
  await rm(folder, { recursive: true, force: true });
});

const file = (name: string): string => join(folder, name);

interface Run {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

async function run(t: TestContext, args: string[], env: NodeJS.ProcessEnv = {}): Promise<Run> {
  const child = spawn(process.execPath, [PROGRAM, ...args], {
    cwd: folder,
    env: { ...env, NODE_V8_COVERAGE: process.env["NODE_V8_COVERAGE"] },
    stdio: ["ignore", "pipe", "pipe"],
  });
  t.after(() => child.kill("SIGKILL"));
  const closed = once(child, "close") as Promise<[number | null]>;
  const [stdout, stderr, [code]] = await Promise.all([text(child.stdout), text(child.stderr), closed]);
  assert.ok(!`${stdout}${stderr}`.includes(SECRET), "a secret was printed");
  return { code, stdout, stderr };
}

async function examine(t: TestContext, env: NodeJS.ProcessEnv): Promise<{ code: number | null; report: Report }> {
  const { code, stdout, stderr } = await run(t, ["doctor", "--json"], env);
  assert.equal(stderr, "");
  return { code, report: JSON.parse(stdout) as Report };
}

function find({ checks }: Report, check: Finding["check"]): Finding {
  const found = checks.find((finding) => finding.check === check);
  assert.ok(found, `the report has "${check}"`);
  return found;
}

test("a healthy server passes every check, and nothing stays connected", limit, async (t) => {
  const { code, report } = await examine(t, { REDIS_URL: server.url, REDTHREAD_THREADS_COUNT: "2" });
  assert.deepEqual([code, report.ok], [0, true]);
  assert.equal(report.target, `127.0.0.1:${server.port}, database 0`);
  for (const check of ["configuration", "reachability", "connection", "latency", "server", "maxclients"] as const) {
    assert.equal(find(report, check).status, "ok", check);
  }
  assert.match(find(report, "latency").found, /^p50 [\d.]+ ms, p99 [\d.]+ ms of 100 PINGs$/);
  assert.match(find(report, "server").found, /^(Redis|Valkey) \d+\.\d+\.\d+, standalone, master$/);
  assert.match(find(report, "maxclients").found, /this process may open 13$/); // 2 × (1 + 4) + 3
  assert.equal(find(report, "permissions").status, "ok");
  await server.waitForClients((clients) => clients.length === 0);
});

test("without --json it is a table, one line for each check, and its verdict", limit, async (t) => {
  const { code, stdout } = await run(t, ["doctor"], { REDIS_URL: server.url });
  assert.equal(code, 0);
  assert.match(stdout, new RegExp(`^Redis at 127\\.0\\.0\\.1:${server.port}, database 0\n`));
  for (const check of ["configuration", "reachability", "TLS", "maxclients", "permissions"]) {
    assert.match(stdout, new RegExp(`^${check} +(ok|-) `, "m"));
  }
  assert.match(stdout, /^All well: \d+ ok, /m);
});

test("every wrong variable is named, and no value is shown", limit, async (t) => {
  const env = {
    REDIS_URL: `http://user:${SECRET}@nowhere`,
    REDTHREAD_THREADS_COUNT: SECRET,
    REDTHREAD_QUEUE_MAXIMUM: "5",
  };
  const { code, report } = await examine(t, env);
  assert.deepEqual([code, report.target], [1, null]);
  const wrong = report.checks.filter(({ status }) => status === "fail").map(({ found }) => found);
  assert.equal(wrong.length, 3);
  for (const name of Object.keys(env))
    assert.ok(
      wrong.some((problem) => problem.includes(name)),
      name,
    );
  assert.ok(report.checks.every(({ check, status }) => check === "configuration" || status === "skip"));
});

test("a configFile is read as a manager reads it, from the option or the environment", limit, async (t) => {
  await writeFile(file("redthread.json"), JSON.stringify({ redis: { port: server.port }, threads: { count: 3 } }));
  const named = await run(t, ["doctor", "--json", "--config-file", file("redthread.json")]);
  const { report } = await examine(t, { REDTHREAD_CONFIG_FILE: "redthread.json" });
  for (const seen of [JSON.parse(named.stdout) as Report, report]) {
    assert.match(find(seen, "maxclients").found, /this process may open 18$/);
  }
});

test("a name without an address fails the name resolution, and the following checks are skipped", limit, async (t) => {
  const { code, report } = await examine(t, { REDIS_HOST: "nowhere.invalid" });
  assert.equal(code, 1);
  assert.equal(find(report, "name resolution").status, "fail");
  assert.match(find(report, "name resolution").advice!, /REDIS_HOST/);
  assert.equal(find(report, "connection").status, "skip");
});

test("a refused connect is explained: nothing listens on the port", limit, async (t) => {
  const { code, report } = await examine(t, { REDIS_PORT: String(await freePort()), REDIS_HOST: "127.0.0.1" });
  assert.equal(code, 1);
  const { status, found, advice } = find(report, "reachability");
  assert.deepEqual([status, found], ["fail", "no connection (ECONNREFUSED)"]);
  assert.match(advice!, /nothing listens there/);
});

test("a missing and a wrong password fail the connection, each with its advice", limit, async (t) => {
  await using guarded = await startRedis({ args: ["--requirepass", SECRET], observer: { password: SECRET } });
  const none = await examine(t, { REDIS_URL: guarded.url });
  assert.equal(none.code, 1);
  assert.match(find(none.report, "connection").found, /^REDTHREAD_AUTH_FAILED/);
  assert.match(find(none.report, "connection").advice!, /set REDIS_PASSWORD/);
  const wrong = await examine(t, { REDIS_URL: guarded.url, REDIS_PASSWORD: `not-${SECRET}` });
  assert.match(find(wrong.report, "connection").advice!, /is wrong/);
  const right = await examine(t, { REDIS_URL: guarded.url, REDIS_PASSWORD: SECRET });
  assert.equal(right.code, 0);
});

test("a maxclients that cannot hold this process fails, with the numbers and the ways out", limit, async (t) => {
  await using small = await startRedis({ args: ["--maxclients", "12"] });
  const tooMany = await examine(t, { REDIS_URL: small.url, REDTHREAD_THREADS_COUNT: "2" });
  assert.equal(tooMany.code, 1);
  const { status, found, advice } = find(tooMany.report, "maxclients");
  assert.deepEqual([status, found], ["fail", "12 allowed, 0 taken by others, this process may open 13"]);
  assert.match(advice!, /connections\.max/);
  assert.equal(find(tooMany.report, "permissions").status, "ok", "what does not depend on it is looked at");
  const capped = { REDTHREAD_THREADS_COUNT: "2", REDTHREAD_CONNECTIONS_MAX: "12" };
  assert.equal((await examine(t, { REDIS_URL: small.url, ...capped })).code, 0);
});

test("a frozen server is given up at redis.connectTimeoutMs", limit, async (t) => {
  await using frozen = await startRedis();
  frozen.freeze();
  const { code, report } = await examine(t, { REDIS_URL: frozen.url, REDTHREAD_REDIS_CONNECT_TIMEOUT_MS: "500" });
  assert.equal(code, 1);
  assert.equal(find(report, "reachability").status, "ok", "its kernel still accepts");
  assert.match(find(report, "connection").found, /^REDTHREAD_CONNECT_FAILED/);
  assert.match(find(report, "connection").advice!, /frozen/);
});

test(
  "TLS: a plain client gets a hint, an unknown authority is asked for, a short-lived certificate is a warning",
  limit,
  async (t) => {
    await using certificates = await makeCertificates();
    await using secured = await startRedis({ tls: { certificates, mutual: false } });
    const { port } = secured;

    const plain = await examine(t, { REDIS_URL: `redis://127.0.0.1:${port}` });
    assert.equal(plain.code, 1);
    assert.match(find(plain.report, "connection").found, /this port speaks TLS/);

    const stranger = await examine(t, { REDIS_URL: `rediss://127.0.0.1:${port}` });
    assert.deepEqual([stranger.code, find(stranger.report, "TLS").status], [1, "fail"]);
    assert.match(find(stranger.report, "TLS").advice!, /redis\.tls\.ca/);

    const configured = async (tls: object): Promise<{ code: number | null; report: Report }> => {
      await writeFile(file("tls.json"), JSON.stringify({ redis: { host: "127.0.0.1", port, tls } }));
      return examine(t, { REDTHREAD_CONFIG_FILE: file("tls.json") });
    };
    const known = await configured({ ca: certificates.ca });
    assert.deepEqual([known.code, find(known.report, "TLS").status], [0, "warn"]);
    assert.match(find(known.report, "TLS").found, /^TLSv1\.\d, the certificate is good for [12] more days$/);
    const blind = await configured({ rejectUnauthorized: false });
    assert.match(find(blind.report, "TLS").found, /is not checked/);
  },
);

test("with sentinels the checks go to the master that the sentinels name", limit, async (t) => {
  await using master = await startRedis();
  await using sentinel = await startSentinel(master);
  const env = { REDTHREAD_REDIS_SENTINELS: `127.0.0.1:${sentinel.port}`, REDTHREAD_REDIS_SENTINEL_NAME: NAME };
  const { code, report } = await examine(t, env);
  assert.equal(code, 0, JSON.stringify(report));
  assert.equal(find(report, "sentinels").found, `the master of "${NAME}" is 127.0.0.1:${master.port}`);
  assert.equal(report.target, `127.0.0.1:${master.port}, database 0`);
  assert.equal(find(report, "reachability").status, "ok");

  const stranger = await examine(t, { ...env, REDTHREAD_REDIS_SENTINEL_NAME: "nobody" });
  assert.equal(stranger.code, 1);
  assert.match(find(stranger.report, "sentinels").found, /knows no master "nobody"/);
  assert.match(find(stranger.report, "sentinels").advice!, /redis\.sentinelName/);
  assert.equal(find(stranger.report, "reachability").status, "skip");
});

test("a Unix socket needs no name, and a missing one is reported", limit, async (t) => {
  const path = file("redis.sock");
  const missing = await examine(t, { REDTHREAD_REDIS_PATH: path });
  assert.equal(missing.code, 1);
  assert.match(find(missing.report, "reachability").advice!, /redis\.path/);
  await using local = await startRedis({ args: ["--unixsocket", path] });
  assert.ok(local.pid);
  const { code, report } = await examine(t, { REDTHREAD_REDIS_PATH: path });
  assert.deepEqual([code, find(report, "name resolution").status], [0, "skip"]);
});

test("unsuitable settings of the server are warnings, and leave the exit code 0", limit, async (t) => {
  const args = ["--timeout", "10", "--tcp-keepalive", "0", "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"];
  await using odd = await startRedis({ args });
  const { code, report } = await examine(t, { REDIS_URL: odd.url });
  assert.equal(code, 0);
  assert.equal(find(report, "memory").status, "warn");
  assert.match(find(report, "memory").advice!, /allkeys-lru drops keys/);
  assert.equal(find(report, "idle connections").status, "warn");
  assert.match(find(report, "idle connections").advice!, /heartbeat/);
});

test("an ACL user with few permissions is tolerated, and the missing ones are listed", limit, async (t) => {
  const acl = `user default off\nuser observer on >${SECRET} ~* &* +@all\nuser poor on >${SECRET} ~* +get +select +unwatch\n`;
  await using strict = await startRedis({ acl, observer: { username: "observer", password: SECRET } });
  const env = { REDIS_URL: strict.url, REDIS_USERNAME: "poor", REDIS_PASSWORD: SECRET };
  const { code, report } = await examine(t, env);
  assert.equal(code, 0);
  assert.equal(find(report, "latency").status, "ok");
  for (const check of ["server", "maxclients", "memory", "idle connections"] as const) {
    const { status, found } = find(report, check);
    assert.equal(status, "skip", check);
    assert.match(found, /not permitted to look.*NOPERM/);
  }
  const { status, found } = find(report, "permissions");
  assert.equal(status, "warn");
  assert.match(found, /PING \(NOPERM\).*CLIENT SETNAME \(NOPERM\).*INFO clients \(NOPERM\).*SUBSCRIBE \(NOPERM\)/);
  assert.doesNotMatch(found, /UNWATCH|SELECT/);
});

test(
  "an ACL user without channels gets a warning that subscriptions are refused, and the verdict does not say that all is well",
  limit,
  async (t) => {
    const acl = `user default off\nuser observer on >${SECRET} ~* &* +@all\nuser mute on >${SECRET} ~* resetchannels +@all\n`;
    await using strict = await startRedis({ acl, observer: { username: "observer", password: SECRET } });
    const env = { REDIS_URL: strict.url, REDIS_USERNAME: "mute", REDIS_PASSWORD: SECRET };
    const { code, stdout } = await run(t, ["doctor"], env);
    assert.equal(code, 0);
    assert.match(
      stdout,
      /^permissions +warn +refused: SUBSCRIBE \(NOPERM\): subscriptions are refused, save to channels/m,
    );
    assert.match(stdout, /^locks +warn +refused: PUBLISH: .*; SUBSCRIBE: waiters look for a release/m);
    assert.match(stdout, /^No check failed: \d+ ok, 2 to look at, /m);
  },
);

const LOCKS =
  "+eval +evalsha +get +set +time +pttl +pexpire +del +publish +subscribe +unsubscribe +client|id +client|kill";

/** A server with a user that has these rights, beside what connections need. */
async function startWithUser(rights: string, keys = "~*"): Promise<RedisServer> {
  const others = "+ping +hello +info +config|get +client|setname +select +unwatch +quit";
  const user = `user locker on >${SECRET} ${keys} &* -@all ${others} ${rights}`;
  const acl = `user default off\nuser observer on >${SECRET} ~* &* +@all\n${user}\n`;
  return startRedis({ acl, observer: { username: "observer", password: SECRET } });
}

const asLocker = (strict: RedisServer): NodeJS.ProcessEnv => ({
  REDIS_URL: strict.url,
  REDIS_USERNAME: "locker",
  REDIS_PASSWORD: SECRET,
});

test(
  "what locks need is tried: a user with exactly these rights can take, wait for and release them",
  limit,
  async (t) => {
    await using strict = await startWithUser(LOCKS);
    const { code, report } = await examine(t, asLocker(strict));
    assert.deepEqual([code, find(report, "locks").status], [0, "ok"], find(report, "locks").found);
    assert.equal(await strict.admin.dbsize(), 0, "nothing is left behind");
    await using manager = new ConnectionManager({
      env: {},
      logger: silent,
      tasks: fixture("lock-tasks"),
      threads: { count: 1 },
      redis: { port: strict.port, username: "locker", password: SECRET },
    });
    const lock = await manager.acquireLock("allowed", { ttlMs: 500 });
    await eventually(() => manager.stats().keeper!.extended > 0);
    const waiting = manager
      .run("tryOnce", { key: "others" })
      .then(() => manager.acquireLock("allowed", { waitMs: 20_000 }));
    await eventually(() => manager.stats().keeper!.waiting === 1, 10_000);
    await lock.release();
    await (await waiting).release();
  },
);

for (const [right, told] of [
  ["+eval", /^refused: EVAL: no lock can be acquired$/],
  ["+evalsha", /^refused: EVALSHA: no lock can be acquired$/],
  ["+pexpire", /^refused: PEXPIRE: no lock is extended/],
  ["+publish", /^refused: PUBLISH: waiters look for a release from time to time/],
  ["+subscribe", /^refused: SUBSCRIBE: waiters look for a release from time to time/],
  ["+client|kill", /^refused: CLIENT KILL: a lock that a thread asks for while it dies/],
] as const) {
  test(`a user without ${right} is told what locks cannot do, and no check fails`, limit, async (t) => {
    await using strict = await startWithUser(LOCKS.replace(right, ""));
    const { code, report } = await examine(t, asLocker(strict));
    const { status, found, advice } = find(report, "locks");
    assert.deepEqual([code, status], [0, "warn"], found);
    assert.match(found, told);
    assert.match(advice!, /unless you use no locks/);
  });
}

test("locks are not judged by a key that the user may not use", limit, async (t) => {
  await using strict = await startWithUser(LOCKS, "~shop:*");
  const { report } = await examine(t, asLocker(strict));
  assert.deepEqual(find(report, "locks").status, "skip");
  const { report: prefixed } = await examine(t, { ...asLocker(strict), REDTHREAD_REDIS_KEY_PREFIX: "shop:" });
  assert.deepEqual(find(prefixed, "locks").status, "ok", find(prefixed, "locks").found);
});

const NEAR = "+get +pttl +client|tracking";
const asReader = (strict: RedisServer): NodeJS.ProcessEnv => ({
  ...asLocker(strict),
  REDTHREAD_NEAR_CACHE_PREFIXES: "model:,flags:",
});

test("what a near cache needs is tried: for a user with exactly these rights it is on", limit, async (t) => {
  await using strict = await startWithUser(NEAR, "~shop:model:* ~shop:flags:*");
  const env = { ...asReader(strict), REDTHREAD_REDIS_KEY_PREFIX: "shop:" };
  const { code, report } = await examine(t, env);
  assert.deepEqual([code, find(report, "near cache").status], [0, "ok"], find(report, "near cache").found);
  await using manager = new ConnectionManager({ env, logger: silent, tasks: fixture("tasks"), threads: { count: 1 } });
  await eventually(() => manager.stats().near?.state === "on", 10_000, "it is on");
});

for (const [rights, keys, told] of [
  [NEAR.replace("+client|tracking", ""), "~*", /^missing: CLIENT TRACKING \(NOPERM\): the cache is off/],
  [NEAR.replace("+pttl", ""), "~*", /^missing: PTTL model:\* \(NOPERM\): nothing is kept.*; PTTL flags:\* \(NOPERM\)/],
  [`${NEAR} -info`, "~*", /^missing: INFO \(NOPERM\): the cache is off, and every read asks Redis$/],
  [NEAR, "~model:*", /^missing: PTTL flags:\* \(NOPERM\): .*; GET flags:\* \(NOPERM\): no read succeeds$/],
] as const) {
  test(
    `a near cache's user with ${rights} and ${keys} is told what is missing, and no check fails`,
    limit,
    async (t) => {
      await using strict = await startWithUser(rights, keys);
      const { code, report } = await examine(t, asReader(strict));
      const { status, found } = find(report, "near cache");
      assert.deepEqual([code, status], [0, "warn"], found);
      assert.match(found, told);
    },
  );
}

test("a near cache without RESP3 gets a warning, and none is tried where none is configured", limit, async (t) => {
  const config = file("resp2.json");
  await writeFile(config, JSON.stringify({ redis: { ioredis: { protocol: 2 } }, nearCache: { prefixes: ["model:"] } }));
  const env = { REDIS_URL: server.url, REDTHREAD_CONFIG_FILE: config, REDTHREAD_THREADS_COUNT: "2" };
  const { report } = await examine(t, env);
  assert.match(find(report, "maxclients").found, /this process may open 14$/, "its keeper's connection, too");
  assert.deepEqual([find(report, "near cache").status, find(report, "permissions").status], ["warn", "ok"]);
  assert.match(find(report, "near cache").found, /^missing: RESP3: the cache is off/);
  const { report: without } = await examine(t, { REDIS_URL: server.url });
  assert.deepEqual(find(without, "near cache"), { check: "near cache", status: "skip", found: "none configured" });
});

test("wrong usage is exit code 2 with the usage on stderr; --help is 0 on stdout", limit, async (t) => {
  for (const args of [[], ["docter"], ["doctor", "--jsn"], ["doctor", "now"]]) {
    const { code, stdout, stderr } = await run(t, args);
    assert.deepEqual([code, stdout], [2, ""], args.join(" "));
    assert.match(stderr, /Usage: redthread doctor/);
  }
  const { code, stdout } = await run(t, ["--help"]);
  assert.equal(code, 0);
  assert.match(stdout, /^Usage: redthread doctor/);
  assert.match(await readFile(PROGRAM, "utf8"), /^#!\/usr\/bin\/env node\n/);
});
