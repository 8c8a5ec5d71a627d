import { pathToFileURL } from "node:url";
import { isAbsolute } from "node:path";
import { isPlainObject, typeOf } from "./option-kinds.js";
import { OPTION_PATHS, OPTIONS, type OptionPath } from "./option-table.js";
import { parseRedisUrl } from "./redis-url.js";
import { strength, type Setting, type Settings } from "./settings.js";
import type { Config } from "./options.js";

type Values = Map<OptionPath, unknown>;

/** The strongest setting of every option, judged, or its default; what is wrong is added to `settings.problems`. */
export function resolveConfig(settings: Settings, { hasProvider }: { readonly hasProvider: boolean }): Config {
  addUrlParts(settings);
  const ignored = new Set<OptionPath>(ignoredAddress(settings));
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

/** Only the strongest url counts: parts of a weaker one, its password above all, belong to another server. */
function addUrlParts(settings: Settings): void {
  const [url] = settings.of("redis.url");
  if (!url) return;
  const origin = `redis.url, ${url.origin}`;
  for (const [path, raw] of parseRedisUrl(url.raw, (what) => settings.complain(url, what))) {
    settings.add({ path, raw, source: url.source, form: "part", origin });
  }
}

/** A socket's path and a host with its port exclude each other: the stronger is used, of one source it is a mistake. */
function ignoredAddress(settings: Settings): ReadonlySet<OptionPath> {
  const [path] = settings.of("redis.path");
  const [server] = [...settings.of("redis.host"), ...settings.of("redis.port")].toSorted(
    (a, b) => strength(b) - strength(a),
  );
  if (!path || !server) return new Set();
  if (path.source === server.source && path.form !== "part" && server.form !== "part") {
    settings.complain(path, `conflicts with ${server.path} (${server.origin}): give one of them`);
  }
  return new Set(strength(path) >= strength(server) ? ["redis.host", "redis.port"] : ["redis.path"]);
}

function resolveOption(path: OptionPath, given: readonly Setting[], settings: Settings): unknown {
  const { kind, initial, compute } = OPTIONS[path];
  const chosen = path === "redis.tls" ? chooseTls(given) : given[0];
  if (!chosen) return compute ? compute() : initial;
  return kind.parse(chosen.raw, (what, at) => settings.complain(chosen, `${what}${serviceLinkHint(chosen)}`, at));
}

/** A bare "on", from rediss:// or REDIS_TLS, does not take away the certificates that a weaker source gives. */
function chooseTls(given: readonly Setting[]): Setting | undefined {
  return (given[0]?.raw === true && given.find((setting) => isPlainObject(setting.raw))) || given[0];
}

function serviceLinkHint({ path, raw }: Setting): string {
  const isServiceLink = path === "redis.port" && typeof raw === "string" && /^\w+:\/\//.test(raw);
  return isServiceLink
    ? " with a scheme (Kubernetes sets this for a service named redis; REDTHREAD_REDIS_PORT wins)"
    : "";
}

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
  const tls = values.get("redis.tls");
  if (!isPlainObject(tls)) return;
  if ((tls["cert"] === undefined) !== (tls["key"] === undefined)) {
    problems.push("redis.tls: cert and key go together, one of them is missing");
  }
  if (tls["minVersion"] === "TLSv1.3" && tls["maxVersion"] === "TLSv1.2") {
    problems.push("redis.tls.minVersion: must not exceed redis.tls.maxVersion");
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
