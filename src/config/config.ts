import { isAbsolute } from "node:path";
import { pathToFileURL } from "node:url";
import { isPlainObject, typeOf } from "./option-kinds.js";
import { OPTION_PATHS, OPTIONS, type OptionPath } from "./option-table.js";
import type { Config } from "./options.js";
import { parseRedisUrl } from "./redis-url.js";
import { strength, type Setting, type Settings } from "./settings.js";

type Values = Map<OptionPath, unknown>;

/** The strongest setting of every option, judged, or its default; what is wrong is added to `settings.problems`. */
export function resolveConfig(settings: Settings, { hasProvider }: { readonly hasProvider: boolean }): Config {
  dropForeignLogins(settings);
  addUrlParts(settings);
  const ignored = new Set<OptionPath>(ignoredAddresses(settings));
  // Whatever the environment says: the provider is the only word on who logs in.
  if (hasProvider) ignored.add("redis.username").add("redis.password");
  const values: Values = new Map();
  for (const path of OPTION_PATHS) {
    if (path === "redis.url") continue;
    const value = resolveOption(path, ignored.has(path) ? [] : settings.of(path), settings);
    if (value !== undefined) values.set(path, value);
  }
  crossCheck(values, settings);
  return nest(values);
}

/** A user or password that stands beside another server is none for the server of a url. */
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
 * Only the strongest url counts, and it counts whole: where something stronger names another server, nothing of it does. Its
 * password above all is for its own server.
 */
function addUrlParts(settings: Settings): void {
  const [url] = settings.of("redis.url");
  if (!url) return;
  const parts = new Map(parseRedisUrl(url.raw, (what) => settings.complain(url, what)));
  const isWhole = parts.has("redis.host") || parts.has("redis.path");
  for (const path of isWhole ? [...LISTS, ...PLACES] : LISTS) {
    const [other] = settings.of(path);
    if (!other || isServiceLink(other)) continue;
    if ((OPTIONS[path].kind.parse(other.raw, () => {}) ?? other) === parts.get(path)) continue; // what is wrong differs
    if (strength(other) > strength(url)) return;
    if (strength(other) === strength(url)) return conflict(other, url, settings);
  }
  if (isWhole) settings.drop(PLACES.flatMap((path) => settings.of(path)));
  const origin = `redis.url, ${url.origin}`;
  for (const [path, raw] of parts) settings.add({ path, raw, source: url.source, form: "part", origin });
}

/** Addresses that can be no part of a url, and those that can. */
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

/** Ways to say where Redis is, each with what says so, and what else means nothing without it. */
const ADDRESSES: readonly { readonly by: readonly OptionPath[]; readonly paths: readonly OptionPath[] }[] = [
  { by: ["redis.sentinels"], paths: SENTINELS },
  { by: ["redis.clusterNodes"], paths: ["redis.clusterNodes"] },
  { by: ["redis.path"], paths: ["redis.path"] },
  { by: ["redis.host", "redis.port"], paths: ["redis.host", "redis.port"] },
];

/** They exclude each other: the strongest is used, of one source two are a mistake. */
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

/** A bare "on", from rediss:// or REDIS_TLS, does not take away the certificates that a weaker source gives. */
function chooseTls(given: readonly Setting[]): Setting | undefined {
  return (given[0]?.raw === true && given.find((setting) => isPlainObject(setting.raw))) || given[0];
}

/** What Kubernetes sets for a service that is named redis: nobody's choice of a server. */
function isServiceLink({ path, raw }: Setting): boolean {
  return path === "redis.port" && typeof raw === "string" && /^\w+:\/\//.test(raw);
}

const SERVICE_LINK = " with a scheme (Kubernetes sets this for a service named redis; REDTHREAD_REDIS_PORT wins)";

/** Values that are right alone and wrong together. */
function crossCheck(values: Values, { problems }: Settings): void {
  const [baseMs, maxMs] = [values.get("retry.baseDelayMs"), values.get("retry.maxDelayMs")];
  if (Number(baseMs) > Number(maxMs)) {
    problems.push(`retry.baseDelayMs: must not exceed retry.maxDelayMs (${String(baseMs)} > ${String(maxMs)})`);
  }
  const recycles = values.has("threads.maxTasks") || values.has("threads.maxHeapMb");
  const needed = Number(values.get("threads.count")) + (recycles ? 3 : 2);
  if (Number(values.get("connections.max") ?? Infinity) < needed) {
    const why = "one for each thread, one for the primary client, one for its rotation";
    const more = recycles ? ", one for a thread that is recycled" : "";
    problems.push(`connections.max: must be at least ${needed}: ${why}${more}`);
  }
  const ioredis = values.get("redis.ioredis");
  if (isPlainObject(ioredis) && ioredis["replyMapping"] === "resp3" && ioredis["protocol"] === 2) {
    problems.push('redis.ioredis.replyMapping: "resp3" needs protocol 3, which is the default');
  }
  if (values.has("redis.sentinels") && !values.has("redis.sentinelName")) {
    problems.push("redis.sentinelName: is missing, the name that the sentinels know the master by");
  }
  for (const path of SENTINELS.filter((one) => values.has(one) && !values.has("redis.sentinels"))) {
    problems.push(`${path}: means nothing without redis.sentinels`);
  }
  if (values.has("redis.clusterNodes") && values.get("redis.db") !== 0) {
    problems.push("redis.db: must be 0, a Cluster has no other database");
  }
  if (values.get("redis.readFrom") === "replica" && !values.has("redis.clusterNodes")) {
    problems.push('redis.readFrom: "replica" means nothing without redis.clusterNodes');
  }
  for (const path of TLS_PATHS) checkTls(path, values.get(path), problems);
}

function checkTls(path: OptionPath, tls: unknown, problems: string[]): void {
  if (!isPlainObject(tls)) return;
  if ((tls["cert"] === undefined) !== (tls["key"] === undefined)) {
    problems.push(`${path}: cert and key go together, one of them is missing`);
  }
  if (tls["minVersion"] === "TLSv1.3" && tls["maxVersion"] === "TLSv1.2") {
    problems.push(`${path}.minVersion: must not exceed ${path}.maxVersion`);
  }
}

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
