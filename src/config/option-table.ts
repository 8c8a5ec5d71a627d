import { LOG_FORMATS, LOG_LEVELS } from "../core/log.js";
import { availableCores } from "./capacity.js";
import { IOREDIS_OPTIONS } from "./ioredis-options.js";
import {
  endpoint,
  fields,
  flag,
  flagOr,
  integer,
  integerOrInfinity,
  type Kind,
  listOf,
  mapOf,
  mapOfText,
  number,
  oneOf,
  pem,
  someOf,
  text,
} from "./option-kinds.js";
import type { Config } from "./options.js";

type Groups = Omit<Config, "tasks" | "appName">;
type PathIn<G extends keyof Groups> = `${G}.${keyof Groups[G] & string}`;

/** The name of an option, in messages and in the Config. */
export type OptionPath = "appName" | "redis.url" | { [G in keyof Groups]: PathIn<G> }[keyof Groups];

export interface Option {
  readonly kind: Kind;
  /** The default. Without one the option may be missing from the Config. */
  readonly initial?: unknown;
  /** In place of `initial`, if the default depends on the machine. */
  readonly compute?: () => unknown;
  /** The variable that most programs use, beside the REDTHREAD_ variable. */
  readonly variable?: string;
}

const TLS_VERSION = oneOf("TLSv1.2", "TLSv1.3");
const TLS = fields({
  ca: pem(),
  cert: pem(),
  key: pem(),
  pfx: pem(),
  crl: pem(),
  passphrase: text(),
  servername: text(),
  rejectUnauthorized: flag(),
  minVersion: TLS_VERSION,
  maxVersion: TLS_VERSION,
  ciphers: text(),
  ecdhCurve: text(),
  sigalgs: text(),
});
const SCRIPTS = mapOf(
  fields({ lua: text(/\S/, "must be Lua source"), numberOfKeys: integer(0), readOnly: flag() }),
  /^[A-Za-z_$][\w$]*$/,
  "the name of a script becomes a method, so it must be an identifier",
);
const THREAD_ENV = mapOf(text(), /^[^=\0]+$/, "must be the name of an environment variable");
const RESOURCE_LIMITS = fields({
  maxOldGenerationSizeMb: number(1, 1e6),
  maxYoungGenerationSizeMb: number(1, 1e6),
  codeRangeSizeMb: number(1, 1e6),
  stackSizeMb: number(1, 1e6),
});
/** An IPv6 address has brackets in a url, but not for the socket. */
const unbracketed = (address: string): string => address.replace(/^\[(.*)\](?=$|:)/, "$1");
const HOST = text(
  /^(?:\[[^\s/@?#[\]]*:[^\s/@?#[\]]*\]|[^\s/@?#[\]]+)$/,
  "must be a host name or an address, without scheme or port",
  unbracketed,
);
const TOLD = /^[^\s/@?#=,]+:\d{1,5}$/;
const NAT_MAP = mapOfText(
  mapOf(endpoint(HOST, 6379), TOLD, "must be host:port, as the servers say it", unbracketed),
  TOLD,
  "must be pairs of addresses, host:port=host:port, separated by commas",
);
const APP_NAME = text(/^/, "must be text", (name) => name.replace(/[^A-Za-z0-9_.-]/g, "-").slice(0, 64));

/** Times in words that threads share wrap, so that they are compared only within a day. */
const DAY_MS = 24 * 60 * 60 * 1_000;
const NEAR_PREFIXES = someOf(
  text(/^\P{Cs}+$/u, "must be well-formed text, at least one character", (prefix) => prefix),
);

/** Every option once: its values, its floor, its default. */
export const OPTIONS: Readonly<Record<OptionPath, Option>> = {
  appName: { kind: APP_NAME, initial: "app" },
  "redis.url": { kind: text(), variable: "REDIS_URL" },
  "redis.host": { kind: HOST, initial: "127.0.0.1", variable: "REDIS_HOST" },
  "redis.port": { kind: integer(1, 65_535), initial: 6379, variable: "REDIS_PORT" },
  "redis.path": { kind: text() },
  "redis.sentinels": { kind: someOf(endpoint(HOST, 26_379)) },
  "redis.sentinelName": { kind: text() },
  "redis.sentinelUsername": { kind: text() },
  "redis.sentinelPassword": { kind: text() },
  "redis.sentinelTls": { kind: flagOr(TLS) },
  "redis.clusterNodes": { kind: someOf(endpoint(HOST, 6379)) },
  "redis.natMap": { kind: NAT_MAP },
  "redis.username": { kind: text(), variable: "REDIS_USERNAME" },
  "redis.password": { kind: text(), variable: "REDIS_PASSWORD" },
  "redis.db": { kind: integer(0, 2 ** 31 - 1), initial: 0, variable: "REDIS_DB" },
  "redis.tls": { kind: flagOr(TLS), initial: false, variable: "REDIS_TLS" },
  "redis.keyPrefix": { kind: text(), initial: "" },
  "redis.scripts": { kind: SCRIPTS, initial: {} },
  "redis.ioredis": { kind: IOREDIS_OPTIONS, initial: {} },
  "redis.connectTimeoutMs": { kind: integer(50), initial: 10_000 },
  "redis.commandTimeoutMs": { kind: integer(10), initial: 5_000 },
  "redis.idleCheckMs": { kind: integer(0), initial: 500 },
  "redis.heartbeatMs": { kind: integer(50), initial: 10_000 },
  "redis.whenDown": { kind: oneOf("wait", "fail"), initial: "wait" },
  "redis.resend": { kind: oneOf("never", "readonly"), initial: "never" },
  "redis.readFrom": { kind: oneOf("master", "replica"), initial: "master" },
  "primary.ttlMs": { kind: integer(10), initial: 3_600_000 },
  "primary.jitter": { kind: number(0, 0.5), initial: 0.1 },
  "threads.count": { kind: integer(1, 1_024), compute: () => availableCores() },
  "threads.concurrency": { kind: integer(1, 10_000), initial: 32 },
  "threads.startTimeoutMs": { kind: integer(100), initial: 10_000 },
  "threads.maxTasks": { kind: integer(1) },
  "threads.maxHeapMb": { kind: integer(32) },
  "threads.resourceLimits": { kind: RESOURCE_LIMITS },
  "threads.execArgv": { kind: listOf(text()) },
  "threads.env": { kind: THREAD_ENV },
  "dedicated.max": { kind: integer(1, 1_000), initial: 4 },
  "dedicated.acquireTimeoutMs": { kind: integer(250), initial: 30_000 },
  "dedicated.idleTimeoutMs": { kind: integer(10), initial: 600_000 },
  "dedicated.maxLifetimeMs": { kind: integer(10), initial: 1_800_000 },
  "dedicated.leakWarnMs": { kind: integer(100) },
  "nearCache.prefixes": { kind: NEAR_PREFIXES },
  "nearCache.maxBytes": { kind: integer(2 ** 20, 2 ** 31) },
  "nearCache.ownTableBytes": { kind: integer(0, 2 ** 31), initial: 2 ** 20 },
  "nearCache.maxValueBytes": { kind: integer(64, 2 ** 24), initial: 64 * 1024 },
  "nearCache.maxStaleMs": { kind: integer(20, DAY_MS), initial: 250 },
  "nearCache.maxAgeMs": { kind: integer(1, DAY_MS), initial: 60_000 },
  "retry.deadlineMs": { kind: integer(1), initial: 30_000 },
  "retry.baseDelayMs": { kind: integer(1), initial: 50 },
  "retry.maxDelayMs": { kind: integer(1), initial: 1_000 },
  "retry.attempts": { kind: integerOrInfinity(1), initial: Infinity },
  "connections.max": { kind: integer(3) },
  "connections.connecting": { kind: integer(1, 1_000), initial: 4 },
  "queue.max": { kind: integer(1), initial: 10_000 },
  "shutdown.lameDuckMs": { kind: integer(0), initial: 0 },
  "shutdown.drainMs": { kind: integer(0), initial: 10_000 },
  "shutdown.closeMs": { kind: integer(50), initial: 2_000 },
  "shutdown.cancelGraceMs": { kind: integer(0), initial: 1_000 },
  "shutdown.handleSignals": { kind: flag(), initial: false },
  "log.level": { kind: oneOf(...LOG_LEVELS), initial: "info", variable: "LOG_LEVEL" },
  "log.format": { kind: oneOf(...LOG_FORMATS), initial: "json", variable: "LOG_FORMAT" },
};

/** The variable of an option: REDTHREAD_THREADS_START_TIMEOUT_MS is threads.startTimeoutMs. */
export function variableOf(path: string): string {
  return `REDTHREAD_${path.replace(/[A-Z]/g, "_$&").replaceAll(".", "_").toUpperCase()}`;
}

export function isOptionPath(path: string): path is OptionPath {
  return Object.hasOwn(OPTIONS, path);
}

export const OPTION_PATHS: readonly OptionPath[] = Object.keys(OPTIONS).filter(isOptionPath);
