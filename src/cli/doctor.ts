/**
 * The room of the `redthread` command: `redthread.ts` is the program, `doctor.ts` makes the checks, `report.ts` has their
 * results. A process of its own; it may import what the clients import, and nothing of the main thread or of threads.
 * Start reading at `examine`.
 */
import { connect, disconnect } from "../clients/connect.js";
import type { RedisHandle } from "../commands/ioredis.js";
import { loadConfig } from "../config/env.js";
import type { Config, ConnectOptions } from "../config/options.js";
import { ForeignError } from "../connection/foreign.js";
import { errorCode } from "../core/log.js";
import { connectionName } from "../core/names.js";
import { tryLocks } from "./locks.js";
import { tryNearCache } from "./near.js";
import { examineNodes } from "./nodes.js";
import { type Check, CHECKS, codeAndText, fail, type Finding, ok, type Report, skip } from "./report.js";
import { judgeIdle, judgeInfo, measureLatency, tryPermissions } from "./server.js";
import { askSentinels, chooseNode, reach, resolveName, shakeHands } from "./steps.js";

/**
 * Reports on everything between this process and its Redis, in the order in which a connection meets it. The checks after
 * a failed one are skipped. A step takes `redis.connectTimeoutMs` at most, a command `redis.commandTimeoutMs`.
 */
export async function examine(options: ConnectOptions): Promise<Report> {
  let config: Config;
  try {
    config = loadConfig(options);
  } catch (error) {
    return report(null, configProblems(error));
  }
  const { db, tls, password } = config.redis;
  const found = `${password === undefined ? "no password" : "with a password"}, TLS ${tls === false ? "off" : "on"}`;
  const findings = [ok("configuration", found)];
  const { finding: named, redis } = await askSentinels(await chooseNode(config.redis));
  findings.push(named);
  const target = `${addressOf(redis, named)}, database ${db}`;
  if (named.status === "fail") return report(target, findings);
  for (const step of [resolveName, reach, shakeHands]) {
    const finding = await step(redis);
    findings.push(finding);
    if (finding.status === "fail") return report(target, findings);
  }
  if (!options.redis?.credentials) findings.push(...(await examineNodes(config)));
  findings.push(...(await examineServer(options, config)));
  return report(target, findings);
}

function addressOf({ path, host, port, sentinelName }: Config["redis"], sentinels: Finding): string {
  if (sentinels.status === "fail") return `the master of "${sentinelName}"`;
  return path ?? `${host}:${port}`;
}

async function examineServer(options: ConnectOptions, config: Config): Promise<Finding[]> {
  const { redis: settings, shutdown } = config;
  let redis: RedisHandle;
  try {
    redis = await connect({ ...options, retry: { attempts: 1, deadlineMs: settings.connectTimeoutMs } });
  } catch (error) {
    return [fail("connection", codeAndText(error), connectionAdvice(error, settings))];
  }
  const findings = [ok("connection", "logged in, and answered by the server")];
  let check: Check = "latency";
  try {
    findings.push(await measureLatency(redis));
    check = "server";
    findings.push(...(await judgeInfo(redis, config)));
    check = "idle connections";
    findings.push(await judgeIdle(redis, config));
    const name = connectionName(config.appName, "owned");
    // The permissions come last, because RESP2 allows hardly any command after a SUBSCRIBE.
    check = "locks";
    findings.push(await tryLocks(redis, name, config));
    check = "near cache";
    findings.push(await tryNearCache(redis, name, config));
    check = "permissions";
    findings.push(await tryPermissions(redis, name, settings.db));
  } catch (error) {
    const advice = "the server stopped answering, or the connection was cut, while it was looked at: try again";
    findings.push(fail(check, `no answer (${errorCode(error)})`, advice));
  } finally {
    await disconnect(redis, { closeMs: shutdown.closeMs });
  }
  return findings;
}

function connectionAdvice(error: unknown, redis: Config["redis"]): string {
  const code = errorCode(error);
  if (code === "REDTHREAD_AUTH_FAILED") {
    return redis.password === undefined
      ? "the server wants a password: set REDIS_PASSWORD (and REDIS_USERNAME for an ACL user)"
      : "the user or the password is wrong (REDIS_URL, or REDIS_USERNAME and REDIS_PASSWORD), or the ACL user is off";
  }
  if (code === "REDTHREAD_MAXCLIENTS_SUSPECTED") {
    return "the server is full or refuses this address: raise maxclients, close other clients, look at protected-mode";
  }
  if (code === "REDTHREAD_CONFIG_INVALID" || (error as Error).cause instanceof ForeignError) {
    return "correct the address: redis.host, port, tls (REDIS_URL), sentinels, clusterNodes";
  }
  return (
    `is the server loading, blocked or frozen (its log, redis-cli --latency)? Does database ${redis.db} exist there? ` +
    `The limit was redis.connectTimeoutMs (${redis.connectTimeoutMs})`
  );
}

function configProblems(error: unknown): Finding[] {
  const { problems } = error as { problems?: readonly string[] };
  if (errorCode(error) !== "REDTHREAD_CONFIG_INVALID" || problems === undefined) throw error;
  const advice = "correct it or take it away; docs/configuration.md names every option";
  return problems.map((found) => fail("configuration", found, advice));
}

/** Every check has a line, so that two reports can be compared. */
function report(target: string | null, findings: readonly Finding[]): Report {
  const failed = findings.find(({ status }) => status === "fail");
  const seen = new Set(findings.map(({ check }) => check));
  const checks = CHECKS.flatMap((check) => {
    if (seen.has(check)) return findings.filter((finding) => finding.check === check);
    return skip(check, `not looked at: ${failed?.check ?? "something"} failed before it`);
  });
  return { ok: failed === undefined, target, checks };
}
