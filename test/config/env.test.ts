import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { loadConfig } from "../../src/config/env.js";
import { ConfigInvalidError } from "../../src/core/errors.js";
import { OPTION_PATHS, variableOf } from "../../src/config/option-table.js";
import type { Config, ConnectOptions } from "../../src/config/options.js";

test("options beat the environment, which beats .env, which beats the config file", (t) => {
  const cwd = folder(t, {
    ".env": "REDIS_HOST=dotenv\nREDIS_USERNAME=dotenv\nREDIS_DB=2\nREDTHREAD_CONFIG_FILE=conf.json\n",
    "conf.json": JSON.stringify({
      appName: "file",
      redis: { host: "file", username: "file", db: 1, keyPrefix: "file:" },
    }),
  });
  const env = { REDIS_HOST: "environment", REDIS_USERNAME: "environment", REDIS_DB: "" };
  const { appName, redis } = loadConfig({ env, redis: { host: "option" } }, { cwd });
  assert.deepEqual([redis.host, redis.username, redis.db, redis.keyPrefix], ["option", "environment", 2, "file:"]);
  assert.equal(appName, "file");
});

test("reading .env writes nothing into process.env, and process.env is read when no env is given", (t) => {
  const cwd = folder(t, { ".env": "REDIS_HOST=dotenv\nREDIS_DB=3\n" });
  const before = { ...process.env };
  t.after(() => delete process.env["REDTHREAD_REDIS_DB"]);
  process.env["REDTHREAD_REDIS_DB"] = "4";
  assert.equal(loadConfig({}, { cwd }).redis.db, 4);
  delete process.env["REDTHREAD_REDIS_DB"];
  assert.deepEqual({ ...process.env }, before);
});

test("every scalar option has a variable by one rule", () => {
  const env = {
    REDTHREAD_APP_NAME: "shop",
    REDTHREAD_REDIS_CONNECT_TIMEOUT_MS: "1234",
    REDTHREAD_REDIS_TLS: "yes",
    REDTHREAD_PRIMARY_JITTER: "0.25",
    REDTHREAD_RETRY_ATTEMPTS: "Infinity",
    REDTHREAD_SHUTDOWN_HANDLE_SIGNALS: "1",
    REDTHREAD_LOG_LEVEL: "WARN",
  };
  const config = load(env);
  assert.equal(config.appName, "shop");
  assert.equal(config.redis.connectTimeoutMs, 1234);
  assert.deepEqual(config.redis.tls, {});
  assert.equal(config.primary.jitter, 0.25);
  assert.equal(config.retry.attempts, Infinity);
  assert.equal(config.shutdown.handleSignals, true);
  assert.equal(config.log.level, "warn");
  assert.equal(variableOf("threads.startTimeoutMs"), "REDTHREAD_THREADS_START_TIMEOUT_MS");
  assert.equal(new Set(OPTION_PATHS.map(variableOf)).size, OPTION_PATHS.length);
});

test("the common names work, and redthread's own name beats them", () => {
  const common = { REDIS_HOST: "a", REDIS_PORT: "1", REDIS_USERNAME: "u", REDIS_PASSWORD: "p", REDIS_DB: "2" };
  const { redis, log } = load({ ...common, REDIS_TLS: "0", LOG_LEVEL: "debug", LOG_FORMAT: "text" });
  assert.deepEqual([redis.host, redis.port, redis.username, redis.password, redis.db], ["a", 1, "u", "p", 2]);
  assert.deepEqual([redis.tls, log], [false, { level: "debug", format: "text" }]);
  assert.equal(load({ ...common, REDTHREAD_REDIS_HOST: "b" }).redis.host, "b");
});

test("a wrong variable is named with the allowed values, and so is an unknown REDTHREAD_ variable", () => {
  const env = {
    REDIS_PORT: "tcp://10.0.0.1:6379",
    REDTHREAD_REDIS_COMMAND_TIMEOUT_MS: "5s",
    REDTHREAD_SHUTDOWN_HANDLE_SIGNALS: "on",
    REDTHREAD_THREAD_COUNT: "2",
    REDTHREAD_REDIS_SCRIPTS: "{}",
  };
  assert.deepEqual(problemsOf({ env }), [
    'REDTHREAD_THREAD_COUNT in the environment: no such option (did you mean "REDTHREAD_THREADS_COUNT"?)',
    "redis.scripts (REDTHREAD_REDIS_SCRIPTS in the environment): cannot be set by a variable, only as an option or in the configFile",
    "redis.port (REDIS_PORT in the environment): must be a whole number from 1 to 65535, got text with a scheme (Kubernetes sets this for a service named redis; REDTHREAD_REDIS_PORT wins)",
    "redis.commandTimeoutMs (REDTHREAD_REDIS_COMMAND_TIMEOUT_MS in the environment): must be a whole number of at least 10, got text",
    "shutdown.handleSignals (REDTHREAD_SHUTDOWN_HANDLE_SIGNALS in the environment): must be true or false (in the environment also 1, 0, yes, no), got text",
  ]);
});

test("a wrong value that a stronger source overrides does no harm", () => {
  assert.equal(loadConfig({ env: { REDIS_PORT: "tcp://1:2" }, redis: { port: 7 } }, NOWHERE).redis.port, 7);
  assert.equal(load({ REDIS_PORT: "tcp://1:2", REDTHREAD_REDIS_PORT: "8" }).redis.port, 8);
});

test("a url gives the whole address, percent-decoded", () => {
  const { redis } = load({ REDIS_URL: "rediss://us%40er:p%3Ass@[::1]:7000/5" });
  assert.deepEqual([redis.host, redis.port, redis.username, redis.password], ["::1", 7000, "us@er", "p:ss"]);
  assert.deepEqual([redis.db, redis.tls], [5, {}]);
  assert.equal(load({ REDIS_URL: "unix:/run/redis.sock" }).redis.path, "/run/redis.sock");
});

test("fields beside a url beat its parts except the address; a stronger url beats the fields of a weaker source", () => {
  const url = "redis://url:1000/1";
  const beside = load({ REDIS_URL: "redis://user:secret@url:1000/1", REDIS_PASSWORD: "other", REDIS_DB: "2" }).redis;
  assert.deepEqual([beside.username, beside.password, beside.db], ["user", "other", 2]);
  const env = { REDIS_HOST: "environment", REDIS_PORT: "2000", REDIS_DB: "2" };
  assert.deepEqual(pick(loadConfig({ env, redis: { url } }, NOWHERE)), ["url", 1000, 1]);
  assert.deepEqual(pick(loadConfig({ env, redis: { url: "redis://url" } }, NOWHERE)), ["url", 6379, 2]);
});

test("a url counts whole or not at all: no part of it goes to a server that a stronger source names", (t) => {
  const env = { REDIS_URL: "rediss://user:secret@url:1000/1" };
  const ofUrl = ["url", 1000, undefined, "user", "secret", 1, {}];
  const nothing = [undefined, undefined, 0, false];
  assert.deepEqual(address({ env, redis: { host: "h" } }), ["h", 6379, undefined, ...nothing]);
  assert.deepEqual(address({ env, redis: { port: 2000 } }), ["127.0.0.1", 2000, undefined, ...nothing]);
  assert.deepEqual(address({ env, redis: { path: "/s" } }), ["127.0.0.1", 6379, "/s", ...nothing]);
  // Redthread's own name beats the common one.
  assert.deepEqual(address({ env: { ...env, REDTHREAD_REDIS_HOST: "h" } }), ["h", 6379, undefined, ...nothing]);
  assert.deepEqual(address({ env: { ...env, REDTHREAD_REDIS_PATH: "/s" } }), ["127.0.0.1", 6379, "/s", ...nothing]);
  const own = { REDTHREAD_REDIS_URL: env.REDIS_URL, REDIS_HOST: "h", REDIS_PORT: "2000" };
  assert.deepEqual(address({ env: own }), ofUrl);
  const cwd = folder(t, { ".env": `REDIS_URL=${env.REDIS_URL}\n` });
  assert.deepEqual(address({ env: { REDIS_HOST: "h" } }, cwd), ["h", 6379, undefined, ...nothing]);
  // The same server, and settings that name no server.
  assert.deepEqual(address({ env: { ...env, REDIS_HOST: "url", REDIS_PORT: "1000" } }), ofUrl);
  assert.deepEqual(address({ env, redis: { host: "url" } }), ofUrl);
  assert.deepEqual(address({ env: { ...env, REDIS_PORT: "tcp://10.0.0.1:6379" } }), ofUrl);
});

test("a url and another server in the same place are a mistake", () => {
  const env = { REDIS_URL: "redis://:secret@url:1000" };
  for (const [name, value] of [
    ["REDIS_HOST", "h"],
    ["REDIS_PORT", "2000"],
  ] as const) {
    const path = name.toLowerCase().replace("_", ".");
    const problem = `${path} (${name} in the environment): conflicts with redis.url (REDIS_URL in the environment): give one of them`;
    assert.deepEqual(problemsOf({ env: { ...env, [name]: value } }), [problem]);
  }
  assert.deepEqual(problemsOf({ env: {}, redis: { url: "unix:/s", host: "h" } }), [
    "redis.host (option): conflicts with redis.url (option): give one of them",
  ]);
  assert.match(String(problemsOf({ env, redis: { path: 5 as never } })), /redis\.path \(option\): must be/);
});

test("the password of a weaker url is not sent to the server of a stronger one", () => {
  const env = { REDIS_URL: "rediss://:secret@old" };
  const { redis } = loadConfig({ env, redis: { url: "redis://new" } }, NOWHERE);
  assert.deepEqual([redis.host, redis.password, redis.tls], ["new", undefined, false]);
});

test("the login of another server does not go to the server of a url", (t) => {
  const env = { REDIS_HOST: "a", REDIS_USERNAME: "of-a", REDIS_PASSWORD: "secret-of-a" };
  const of = ["of-a", "secret-of-a"];
  const none = [undefined, undefined];
  assert.deepEqual(login({ env }), of);
  for (const url of ["redis://other:7000", "unix:/other"]) assert.deepEqual(login({ env, redis: { url } }), none, url);
  // With the same server or none beside it, a login is for the server that is used.
  assert.deepEqual(login({ env, redis: { url: "redis://a:7000" } }), of);
  const alone = { REDIS_PASSWORD: "secret" };
  assert.deepEqual(login({ env: alone, redis: { url: "redis://other" } }), [undefined, "secret"]);
  // A stronger login counts wherever it stands.
  assert.deepEqual(login({ env, redis: { url: "redis://other", password: "p" } }), [undefined, "p"]);
  const cwd = folder(t, { ".env": "REDIS_HOST=a\nREDIS_PASSWORD=secret-of-a\n" });
  assert.deepEqual(login({ env: { REDIS_URL: "redis://other" } }, { cwd }), none);
});

test("turning TLS on keeps the certificates that a weaker source gives", (t) => {
  const cwd = folder(t, { "conf.json": JSON.stringify({ redis: { tls: { ca: "pem" } } }) });
  const tlsOf = (env: NodeJS.ProcessEnv) => loadConfig({ env, configFile: "conf.json" }, { cwd }).redis.tls;
  assert.deepEqual(tlsOf({ REDIS_URL: "rediss://h" }), { ca: "pem" });
  assert.deepEqual(tlsOf({ REDIS_TLS: "true" }), { ca: "pem" });
  assert.equal(tlsOf({ REDIS_TLS: "false" }), false);
});

test("a socket's path and a host exclude each other: the stronger source's is used", () => {
  const env = { REDTHREAD_REDIS_PATH: "/run/redis.sock" };
  assert.equal(loadConfig({ env, redis: { host: "h" } }, NOWHERE).redis.path, undefined);
  assert.equal(loadConfig({ env: { REDIS_HOST: "h" }, redis: { path: "/s" } }, NOWHERE).redis.path, "/s");
  assert.equal(load({ ...env, REDIS_URL: "redis://h" }).redis.path, "/run/redis.sock");
  assert.match(problemsOf({ env: { ...env, REDIS_HOST: "h" } }).join(), /conflicts with redis.host \(REDIS_HOST/);
});

test("items of a list in the environment are what is between the commas, without the spaces around it", () => {
  const { prefixes } = load({ REDTHREAD_NEAR_CACHE_PREFIXES: " model: ,flags:, two words:" }).nearCache;
  assert.deepEqual(prefixes, ["model:", "flags:", "two words:"]);
});

test("sentinels come as a list of addresses, in the environment as text", () => {
  const env = { REDTHREAD_REDIS_SENTINELS: "a:26380, b,[::1]:26381", REDTHREAD_REDIS_SENTINEL_NAME: "m" };
  const sentinels = [
    { host: "a", port: 26_380 },
    { host: "b", port: 26_379 },
    { host: "::1", port: 26_381 },
  ];
  assert.deepEqual(load(env).redis.sentinels, sentinels);
  const option = [{ host: "a", port: 26_380 }, { host: "b" }, { host: "::1", port: 26_381 }];
  assert.deepEqual(loadConfig({ env: {}, redis: { sentinels: option, sentinelName: "m" } }).redis.sentinels, sentinels);
  const wrong = { REDTHREAD_REDIS_SENTINELS: "a:b:c,h:70000,:pw@h", REDTHREAD_REDIS_SENTINEL_NAME: "m" };
  assert.deepEqual(
    problemsOf({ env: wrong }).map((problem) => String(problem).replace(/\(.*?\)/, "()")),
    [
      "redis.sentinels[0] (): must be host:port, or an object of host and port, got text",
      "redis.sentinels[1].port (): must be a whole number from 1 to 65535, got 70000",
      "redis.sentinels[2] (): must be host:port, or an object of host and port, got text",
    ],
  );
});

test("an IPv6 address may have brackets wherever a host is expected, and no other text may", (t) => {
  const dotenv = folder(t, { ".env": "REDIS_HOST=[::1]\n" });
  const file = folder(t, { "conf.json": '{ "redis": { "host": "[fe80::1%eth0]" } }' });
  const hosts = [
    loadConfig({ env: {}, redis: { host: "[::1]" } }, NOWHERE),
    load({ REDIS_HOST: "[::1]" }),
    load({ REDIS_URL: "redis://[::1]:6379" }),
    loadConfig({ env: {} }, { cwd: dotenv }),
    loadConfig({ env: {}, configFile: "conf.json" }, { cwd: file }),
  ].map(({ redis }) => redis.host);
  assert.deepEqual(hosts, ["::1", "::1", "::1", "::1", "fe80::1%eth0"]);
  const node = { host: "::1", port: 7000 };
  const listed = [{ host: "[::1]" }, { host: "[::1]", port: 7000 }];
  const { sentinels } = loadConfig({ env: {}, redis: { sentinels: listed, sentinelName: "m" } }, NOWHERE).redis;
  assert.deepEqual(sentinels, [{ host: "::1", port: 26_379 }, node]);
  const { clusterNodes } = loadConfig({ env: {}, redis: { clusterNodes: listed } }, NOWHERE).redis;
  assert.deepEqual(clusterNodes, [{ host: "::1", port: 6379 }, node]);
  const natMap = { "[::1]:6379": { host: "[::1]", port: 7000 } };
  assert.deepEqual(loadConfig({ env: {}, redis: { natMap } }, NOWHERE).redis.natMap, { "::1:6379": node });
  const { redis } = load({ REDTHREAD_REDIS_NAT_MAP: "[::1]:6379=[::1]:7000" });
  assert.deepEqual(redis.natMap, { "::1:6379": node });
  for (const wrong of ["[::1", "::1]", "[::1]:6379", "[localhost]", "[[::1]]", "[]"]) {
    const problems = problemsOf({ env: {}, redis: { host: wrong } }).join();
    assert.match(problems, /^redis\.host .* without scheme or port/, wrong);
  }
});

test("natMap is an object, in the environment a text of pairs; a wrong address is named", () => {
  const natMap = { "10.0.0.1:6379": { host: "a", port: 7001 }, "::1:6379": { host: "b", port: 6379 } };
  const env = { REDTHREAD_REDIS_NAT_MAP: "10.0.0.1:6379=a:7001, ::1:6379=b" };
  assert.deepEqual(load(env).redis.natMap, natMap);
  const option = { "10.0.0.1:6379": { host: "a", port: 7001 }, "::1:6379": { host: "b" } };
  assert.deepEqual(loadConfig({ env: {}, redis: { natMap: option } }, NOWHERE).redis.natMap, natMap);
  const problem = (text: string): unknown => problemsOf({ env: { REDTHREAD_REDIS_NAT_MAP: text } }).join();
  const inEnvironment = "(REDTHREAD_REDIS_NAT_MAP in the environment): must be";
  for (const text of ["10.0.0.1=a", "10.0.0.1:1", "10.0.0.1:1=a=b", "user:secret@10.0.0.1:1=a"]) {
    assert.equal(
      problem(text),
      `redis.natMap ${inEnvironment} pairs of addresses, host:port=host:port, separated by commas`,
    );
  }
  assert.equal(
    problem("10.0.0.2:1="),
    `redis.natMap.10.0.0.2:1 ${inEnvironment} host:port, or an object of host and port, got nothing`,
  );
  assert.deepEqual(problemsOf({ env: {}, redis: { natMap: { "10.0.0.1": { host: "a" } } } }), [
    "redis.natMap.10.0.0.1 (option): must be host:port, as the servers say it",
  ]);
});

test("the nodes of a Cluster come as a list, exclude every other address, and have database 0 only", () => {
  const clusterNodes = [
    { host: "a", port: 6379 },
    { host: "::1", port: 7001 },
  ];
  const env = { REDTHREAD_REDIS_CLUSTER_NODES: "a, [::1]:7001" };
  assert.deepEqual(loadConfig({ env }, NOWHERE).redis.clusterNodes, clusterNodes);
  for (const other of [
    { url: "redis://c:1" },
    { path: "/c.sock" },
    { port: 1 },
    { sentinels: [{ host: "s" }], sentinelName: "m" },
  ]) {
    const given = { env: {}, redis: { clusterNodes, ...other } };
    assert.match(String(problemsOf(given)[0]), /conflicts with redis\.\w+ \(option\)/);
    const { redis } = loadConfig({ env, redis: other }, NOWHERE);
    assert.equal(redis.clusterNodes, undefined);
  }
  const weak = { REDIS_URL: "redis://:secret@elsewhere/3" };
  const { redis } = loadConfig({ env: weak, redis: { clusterNodes } }, NOWHERE);
  assert.deepEqual([redis.clusterNodes, redis.password, redis.db], [clusterNodes, undefined, 0]);
  assert.deepEqual(problemsOf({ env: { REDTHREAD_REDIS_READ_FROM: "replica" } }), [
    'redis.readFrom: "replica" means nothing without redis.clusterNodes',
  ]);
  assert.deepEqual(problemsOf({ env: {}, redis: { clusterNodes, db: 1 } }), [
    "redis.db: must be 0, a Cluster has no other database",
  ]);
});

test("sentinels exclude every other address: in one source both are a mistake, else the stronger source is used", () => {
  const sentinels = [{ host: "a" }];
  const sentinelEnv = { REDTHREAD_REDIS_SENTINELS: "a", REDTHREAD_REDIS_SENTINEL_NAME: "m" };
  for (const other of [{ host: "h" }, { port: 1 }, { path: "/s" }, { url: "redis://h" }]) {
    const [problem] = problemsOf({ env: {}, redis: { sentinels, sentinelName: "m", ...other } });
    assert.match(String(problem), /^redis\.sentinels \(option\): conflicts with redis\.\w+ \(option\)/);
    const { redis } = loadConfig({ env: sentinelEnv, redis: other }, NOWHERE);
    assert.deepEqual([redis.sentinels, redis.sentinelName], [undefined, undefined]);
  }
  const env = { REDIS_URL: "redis://:secret@old/3", REDIS_DB: "2" };
  const { redis } = loadConfig({ env, redis: { sentinels, sentinelName: "m" } }, NOWHERE);
  assert.deepEqual([redis.sentinels, redis.password, redis.db], [[{ host: "a", port: 26_379 }], undefined, 2]);
  assert.deepEqual(problemsOf({ env: {}, redis: { sentinels } }), [
    "redis.sentinelName: is missing, the name that the sentinels know the master by",
  ]);
  assert.deepEqual(problemsOf({ env: {}, redis: { sentinels: [], sentinelName: "m" } }), [
    "redis.sentinels (option): must name at least one",
    "redis.sentinelName: means nothing without redis.sentinels",
  ]);
  assert.deepEqual(problemsOf({ env: {}, redis: { sentinelPassword: "secret", sentinelTls: { key: "k" } } }), [
    "redis.sentinelPassword: means nothing without redis.sentinels",
    "redis.sentinelTls: means nothing without redis.sentinels",
    "redis.sentinelTls: cert and key go together, one of them is missing",
  ]);
});

test("a wrong url is named without being quoted", () => {
  for (const url of [
    "http://:secret@h",
    "redis://:secret@h:99999",
    "redis://:secret%@h",
    "redis://h/secret",
    "redis://h?password=secret",
    "redis://:sec#ret@h",
    "redis:secret",
    "unix:/",
    "secret",
  ]) {
    const problems = problemsOf({ env: { REDIS_URL: url } });
    assert.ok(problems.length > 0, url);
    assert.match(problems.join(), /^redis.url \(REDIS_URL in the environment\): /, url);
    assert.doesNotMatch(problems.join(), /secret|sec#ret/);
  }
});

test("a config file that is missing, no JSON, or has unknown keys is named without being quoted", (t) => {
  const cwd = folder(t, {
    "broken.json": '{ "redis": { "password": secret',
    "list.json": "[]",
    "wrong.json": '{ "tasks": "/x", "redis": { "pasword": "secret", "port": "secret" } }',
  });
  const problems = (configFile: string): unknown[] => problemsOf({ env: {}, configFile }, cwd);
  assert.deepEqual(problems("none.json"), [`configFile: ${cwd}/none.json cannot be read (ENOENT)`]);
  assert.deepEqual(problems("broken.json"), [`configFile: ${cwd}/broken.json is not valid JSON`]);
  assert.deepEqual(problems("list.json"), [`options (file ${cwd}/list.json): must be an object, got an array`]);
  assert.deepEqual(problems("wrong.json"), [
    `tasks (file ${cwd}/wrong.json): unknown option`,
    `redis.pasword (file ${cwd}/wrong.json): unknown option (did you mean "password"?)`,
    `redis.port (file ${cwd}/wrong.json): must be a whole number from 1 to 65535, got text`,
  ]);
});

test("a wrong line in .env is named as such, and foreign variables are ignored", (t) => {
  const cwd = folder(t, { ".env": "PATH=/bin\nREDIS_DB=one\nREDTHREAD_NOPE=1\n" });
  assert.deepEqual(problemsOf({ env: { HOME: "/root" } }, cwd), [
    "REDTHREAD_NOPE in .env: no such option",
    "redis.db (REDIS_DB in .env): must be a whole number from 0 to 2147483647, got text",
  ]);
});

const NOWHERE = { cwd: "/nowhere" };

function load(env: NodeJS.ProcessEnv): Config {
  return loadConfig({ env }, NOWHERE);
}

function pick({ redis }: Config): unknown[] {
  return [redis.host, redis.port, redis.db];
}

/** The options of the address and of the login. */
function address(options: ConnectOptions, cwd = "/nowhere"): unknown[] {
  const { host, port, path, username, password, db, tls } = loadConfig(options, { cwd }).redis;
  return [host, port, path, username, password, db, tls];
}

function login(options: ConnectOptions, source = NOWHERE): unknown[] {
  const { username, password } = loadConfig(options, source).redis;
  return [username, password];
}

function problemsOf(options: ConnectOptions, cwd = "/nowhere"): unknown[] {
  try {
    loadConfig(options, { cwd });
  } catch (error) {
    assert.ok(error instanceof ConfigInvalidError);
    const problems: unknown = Reflect.get(error, "problems");
    assert.ok(Array.isArray(problems));
    return problems;
  }
  return [];
}

function folder(t: TestContext, files: Record<string, string>): string {
  const path = mkdtempSync(join(tmpdir(), "redthread-env-"));
  t.after(() => rmSync(path, { recursive: true }));
  for (const [name, content] of Object.entries(files)) writeFileSync(join(path, name), content);
  return path;
}

test("a provider of credentials replaces every username and password, and is the only option that is no plain data", () => {
  const env = { REDIS_URL: "redis://user:secret@host", REDIS_PASSWORD: "other" };
  const { redis } = loadConfig({ env, redis: { credentials: Object } }, NOWHERE);
  assert.deepEqual([redis.host, redis.username, redis.password], ["host", undefined, undefined]);
  assert.deepEqual(problemsOf({ env: {}, redis: { credentials: "token" as never, password: "p" } }), [
    "redis.credentials (option): must be a function that gives credentials, got text",
    "redis.password (option): conflicts with redis.credentials (option): give one of them",
  ]);
});
