import { isAbsolute } from "node:path";
import { pathToFileURL } from "node:url";
import { leastNearBytes, noRoomForNearCache } from "./capacity.js";
import { isPlainObject, typeOf } from "./option-kinds.js";
import { OPTION_PATHS, OPTIONS, type OptionPath } from "./option-table.js";
import type { Config } from "./options.js";
import { parseRedisUrl } from "./redis-url.js";
import { strength, type Setting, type Settings } from "./settings.js";

// From the settings of all sources to one Config: which source counts for an option, whether its value is right, and whether the
// values fit together.

type Values = Map<OptionPath, unknown>;

/** The strongest setting of every option, checked, or its default. What is wrong is added to `settings.problems`. */
export function resolveConfig(settings: Settings, { hasProvider }: { readonly hasProvider: boolean }): Config {
  dropForeignLogins(settings);
  addUrlParts(settings);
  const ignored = new Set<OptionPath>(ignoredAddresses(settings));
  // Also from the environment: the provider alone decides about the login.
  if (hasProvider) ignored.add("redis.username").add("redis.password");
  const values: Values = new Map();
  for (const path of OPTION_PATHS) {
    if (path === "redis.url") continue;
    const value = resolveOption(path, ignored.has(path) ? [] : settings.of(path), settings);
    if (value !== undefined) values.set(path, value);
  }
  crossCheck(values, settings);
  checkNearCache(values, settings);
  return nest(values);
}

/** Drops a user or password that its source gives for another server than the url's. */
function dropForeignLogins(settings: Settings): void {
  const servers = SERVERS.flatMap((path) => settings.of(path)).toSorted((a, b) => strength(b) - strength(a));
  const [chosen] = servers;
  if (chosen?.path !== "redis.url") return;
  const isForeign = (login: Setting): boolean => {
    const own = servers.find((server) => strength(server) === strength(login));
    return own !== undefined && serverOf(own) !== serverOf(chosen);
  };
  settings.drop(LOGIN.flatMap((path) => settings.of(path)).filter(isForeign));
}

function serverOf({ path, raw }: Setting): string {
  if (path !== "redis.url") return JSON.stringify(OPTIONS[path].kind.parse(raw, () => {}) ?? raw);
  const parts = new Map(parseRedisUrl(raw, () => {}));
  return JSON.stringify(parts.get("redis.path") ?? parts.get("redis.host"));
}

/**
 * Only the strongest url counts, and it counts whole. If a stronger source names another server, no part of the url counts,
 * above all not its password.
 */
function addUrlParts(settings: Settings): void {
  const [url] = settings.of("redis.url");
  if (!url) return;
  const parts = new Map(parseRedisUrl(url.raw, (what) => settings.complain(url, what)));
  const isWhole = parts.has("redis.host") || parts.has("redis.path");
  for (const path of isWhole ? [...LISTS, ...PLACES] : LISTS) {
    const [other] = settings.of(path);
    if (!other || isServiceLink(other)) continue;
    if ((OPTIONS[path].kind.parse(other.raw, () => {}) ?? other) === parts.get(path)) continue; // an invalid value differs from the url's
    if (strength(other) > strength(url)) return;
    if (strength(other) === strength(url)) return conflict(other, url, settings);
  }
  if (isWhole) settings.drop(PLACES.flatMap((path) => settings.of(path)));
  const origin = `redis.url, ${url.origin}`;
  for (const [path, raw] of parts) settings.add({ path, raw, source: url.source, form: "part", origin });
}

/** LISTS cannot be a part of a url, PLACES can. */
const LISTS = ["redis.sentinels", "redis.clusterNodes"] as const satisfies readonly OptionPath[];
const PLACES = ["redis.path", "redis.host", "redis.port"] as const satisfies readonly OptionPath[];

const SERVERS = ["redis.url", ...LISTS, "redis.path", "redis.host"] as const satisfies readonly OptionPath[];
const LOGIN = ["redis.username", "redis.password"] as const satisfies readonly OptionPath[];

const SENTINELS = [
  "redis.sentinels",
  "redis.sentinelName",
  "redis.sentinelUsername",
  "redis.sentinelPassword",
  "redis.sentinelTls",
] as const satisfies readonly OptionPath[];

/** The ways to say where Redis is: the options that say so, and the options that mean nothing without them. */
const ADDRESSES: readonly { readonly by: readonly OptionPath[]; readonly paths: readonly OptionPath[] }[] = [
  { by: ["redis.sentinels"], paths: SENTINELS },
  { by: ["redis.clusterNodes"], paths: ["redis.clusterNodes"] },
  { by: ["redis.path"], paths: ["redis.path"] },
  { by: ["redis.host", "redis.port"], paths: ["redis.host", "redis.port"] },
];

/** Addresses exclude each other: the strongest is used. Two in one source are a mistake. */
function ignoredAddresses(settings: Settings): ReadonlySet<OptionPath> {
  const given = ADDRESSES.flatMap(({ by, paths }) => {
    const [strongest] = by.flatMap((path) => settings.of(path)).toSorted((a, b) => strength(b) - strength(a));
    return strongest ? [{ strongest, paths }] : [];
  }).toSorted((a, b) => strength(b.strongest) - strength(a.strongest));
  const [used, ...ignored] = given;
  for (const { strongest: other } of ignored) {
    const { strongest } = used!;
    if (strongest.source === other.source) conflict(strongest, other, settings);
  }
  return new Set(ignored.flatMap(({ paths }) => paths));
}

function conflict(one: Setting, other: Setting, settings: Settings): void {
  settings.complain(one, `conflicts with ${other.path} (${other.origin}): give one of them`);
}

function resolveOption(path: OptionPath, given: readonly Setting[], settings: Settings): unknown {
  const { kind, initial, compute } = OPTIONS[path];
  const chosen = TLS_PATHS.includes(path) ? chooseTls(given) : given[0];
  if (!chosen) return compute ? compute() : initial;
  return kind.parse(chosen.raw, (what, at) =>
    settings.complain(chosen, what + (isServiceLink(chosen) ? SERVICE_LINK : ""), at),
  );
}

const TLS_PATHS: readonly OptionPath[] = ["redis.tls", "redis.sentinelTls"];

/** A bare "on", from rediss:// or REDIS_TLS, keeps the certificates that a weaker source gives. */
function chooseTls(given: readonly Setting[]): Setting | undefined {
  return (given[0]?.raw === true && given.find((setting) => isPlainObject(setting.raw))) || given[0];
}

/** Whether Kubernetes set this for a service that is named redis: it is not the user's choice of a server. */
function isServiceLink({ path, raw }: Setting): boolean {
  return path === "redis.port" && typeof raw === "string" && /^\w+:\/\//.test(raw);
}

const SERVICE_LINK = " with a scheme (Kubernetes sets this for a service named redis; REDTHREAD_REDIS_PORT wins)";

/** Finds values that are right alone and wrong together. */
function crossCheck(values: Values, { problems }: Settings): void {
  const refuseIf = (isWrong: boolean, problem: string): void => {
    if (isWrong) problems.push(problem);
  };
  const fieldsOf = (path: OptionPath): Record<string, unknown> => Object(values.get(path)) as Record<string, unknown>;
  const [baseMs, maxMs] = [Number(values.get("retry.baseDelayMs")), Number(values.get("retry.maxDelayMs"))];
  refuseIf(baseMs > maxMs, `retry.baseDelayMs: must not exceed retry.maxDelayMs (${baseMs} > ${maxMs})`);
  const recycles = values.has("threads.maxTasks") || values.has("threads.maxHeapMb");
  const needed = Number(values.get("threads.count")) + (recycles ? 3 : 2);
  const why = "one for each thread, one for the primary client, one for its rotation";
  const more = recycles ? ", one for a thread that is recycled" : "";
  const most = Number(values.get("connections.max") ?? Infinity);
  refuseIf(most < needed, `connections.max: must be at least ${needed}: ${why}${more}`);
  const { replyMapping, protocol } = fieldsOf("redis.ioredis");
  const isOldProtocol = replyMapping === "resp3" && protocol === 2;
  refuseIf(isOldProtocol, 'redis.ioredis.replyMapping: "resp3" needs protocol 3, which is the default');
  const hasSentinels = values.has("redis.sentinels");
  const isNameless = hasSentinels && !values.has("redis.sentinelName");
  refuseIf(isNameless, "redis.sentinelName: is missing, the name that the sentinels know the master by");
  for (const path of SENTINELS) {
    refuseIf(values.has(path) && !hasSentinels, `${path}: means nothing without redis.sentinels`);
  }
  const isCluster = values.has("redis.clusterNodes");
  refuseIf(isCluster && values.get("redis.db") !== 0, "redis.db: must be 0, a Cluster has no other database");
  const readsReplicas = values.get("redis.readFrom") === "replica";
  refuseIf(readsReplicas && !isCluster, 'redis.readFrom: "replica" means nothing without redis.clusterNodes');
  for (const path of TLS_PATHS) {
    const { cert, key, minVersion, maxVersion } = fieldsOf(path);
    refuseIf((cert === undefined) !== (key === undefined), `${path}: cert and key go together, one of them is missing`);
    const isCrossed = minVersion === "TLSv1.3" && maxVersion === "TLSv1.2";
    refuseIf(isCrossed, `${path}.minVersion: must not exceed ${path}.maxVersion`);
  }
}

const NEAR_BYTES = 64 * 2 ** 20;
/** As the option's kind says. */
const MAX_NEAR_BYTES = 2 ** 31;

/** Finds what is wrong with the near cache, and gives it its size. */
function checkNearCache(values: Values, settings: Settings): void {
  const refuse = (path: string, what: string): void => void settings.problems.push(`${path}: ${what}`);
  const given = values.get("nearCache.prefixes") as readonly (string | undefined)[] | undefined;
  const prefixes = given?.filter((prefix) => prefix !== undefined); // the others are complained of
  const least = leastNearBytes(Number(values.get("threads.count")), Number(values.get("nearCache.maxValueBytes")));
  const maxBytes = values.get("nearCache.maxBytes");
  if (maxBytes === undefined) values.set("nearCache.maxBytes", Math.max(NEAR_BYTES, least));
  if (!prefixes) {
    const [other] = NEAR_CACHE.flatMap((path) => settings.of(path));
    if (other) settings.complain(other, "means nothing without nearCache.prefixes");
    return;
  }
  const count = Number(values.get("threads.count"));
  if (least > MAX_NEAR_BYTES)
    refuse("nearCache.maxValueBytes", `is too large for ${count} threads: maxBytes would have to be ${least}`);
  else if (Number(maxBytes) < least)
    refuse("nearCache.maxBytes", `must be at least ${least}: 2 x threads.count + 2 parts, each of 16 x maxValueBytes`);
  for (const [i, one] of prefixes.entries())
    for (const other of prefixes.slice(i + 1))
      if (one.startsWith(other) || other.startsWith(one))
        refuse("nearCache.prefixes", "must not overlap, because the server refuses that: one begins with another one");
  const whyNot = "cannot be used with redis.clusterNodes: writes to several nodes cannot be heard of by one connection";
  if (values.has("redis.clusterNodes")) refuse("nearCache.prefixes", whyNot);
  const problem = settings.problems.length === 0 ? noRoomForNearCache(nest(values)) : undefined;
  if (problem !== undefined) settings.problems.push(problem);
}

const NEAR_CACHE = [
  "nearCache.maxBytes",
  "nearCache.ownTableBytes",
  "nearCache.maxValueBytes",
  "nearCache.maxStaleMs",
  "nearCache.maxAgeMs",
] as const satisfies readonly OptionPath[];

function nest(values: Values): Config {
  const config: Record<string, unknown> = {};
  const groups: Record<string, Record<string, unknown>> = {};
  for (const [path, value] of values) {
    const [group, name] = path.split(".");
    if (name === undefined) config[path] = value;
    else (groups[group!] ??= {})[name] = value;
  }
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the type of OPTIONS asks for every path of Config
  return { ...config, ...groups } as unknown as Config;
}

/** The href of the users' tasks module. */
export function resolveTasks(raw: unknown, problems: string[]): string | undefined {
  const href = raw instanceof URL ? raw.href : raw;
  if (typeof href === "string" && /^file:\/\//i.test(href) && URL.canParse(href)) return new URL(href).href;
  if (typeof href === "string" && isAbsolute(href)) return pathToFileURL(href).href;
  const must = 'must be a file URL, such as new URL("./tasks.js", import.meta.url), or an absolute path';
  problems.push(`tasks (option): ${must}, got ${raw instanceof URL ? "another URL" : typeOf(raw)}`);
  return undefined;
}
