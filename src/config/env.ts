import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { ConfigInvalidError } from "../core/errors.js";
import { errorCode, LOG_LEVELS } from "../core/log.js";
import { requirePackage } from "../core/packages.js";
import { resolveConfig, resolveTasks } from "./config.js";
import { typeOf } from "./option-kinds.js";
import { freezeConfig, type Config, type ConnectOptions, type ManagerOptions, type RedisOptions } from "./options.js";
import { Settings } from "./settings.js";

const { parse: parseDotenv } = requirePackage<typeof import("dotenv")>("dotenv");

// The room `config` makes one Config of options, environment, .env and configFile; it may import core. Start here: `loadConfig`
// collects the sources, settings.ts keeps what each source gives, config.ts decides which counts and what fits together,
// option-table.ts has every option with its default, option-kinds.ts the checks, options.ts the types that users see.

export type LoadOptions = {
  /** A manager needs a tasks module, a thread of its own does not. Default false. */
  readonly requireTasks?: boolean | undefined;
  /** The folder of .env and of a relative configFile. Default: process.cwd(). */
  readonly cwd?: string | undefined;
};

const NOT_SETTINGS = ["tasks", "env", "configFile", "logger", "redis.credentials"];
const CONFIG_FILE = "REDTHREAD_CONFIG_FILE";

/**
 * The configuration from the options, then the environment, then .env, then the configFile, then the defaults.
 * Reads the sources anew on every call and writes nothing into process.env. One ConfigInvalidError names in its `problems`
 * everything that is wrong, with its source and without its value.
 */
export function loadConfig(
  options: ManagerOptions,
  how: LoadOptions & { readonly requireTasks: true },
): Config & { readonly tasks: string };
export function loadConfig(options?: ConnectOptions | ManagerOptions, how?: LoadOptions): Config;
export function loadConfig(options: Partial<ManagerOptions> = {}, how: LoadOptions = {}): Config {
  const settings = new Settings();
  const { problems } = settings;
  const given = typeof options === "object" && options !== null ? options : {};
  settings.addObject(options, "option", "option", NOT_SETTINGS);
  readSources(given, how.cwd ?? process.cwd(), settings);
  checkLogger(given.logger, problems);
  const credentials = given.redis?.credentials;
  if (credentials !== undefined) checkProvider(credentials, given.redis!, problems);
  const config = resolveConfig(settings, { hasProvider: credentials !== undefined });
  const hasTasks = given.tasks !== undefined && given.tasks !== "";
  const tasks = hasTasks || how.requireTasks ? resolveTasks(given.tasks, problems) : undefined;

  if (problems.length > 0) throw new ConfigInvalidError(asMessage(problems), { problems });
  return freezeConfig(tasks === undefined ? config : { tasks, ...config });
}

/**
 * The variables of a thread with an `env` of its own. The permission model that the process has from NODE_OPTIONS holds in the
 * thread only if the thread's NODE_OPTIONS name it as well.
 */
export function threadEnv(env: Readonly<Record<string, string>>): Record<string, string> {
  const inherited = process.env["NODE_OPTIONS"];
  if (!("permission" in process) || inherited === undefined) return { ...env };
  const own = env["NODE_OPTIONS"];
  // Node allows a thread any option in NODE_OPTIONS as long as the text begins with the process's own.
  return { ...env, NODE_OPTIONS: own ? `${inherited} ${own}` : inherited };
}

function readSources(options: Partial<ManagerOptions>, cwd: string, settings: Settings): void {
  const environment: unknown = options.env ?? process.env;
  const variables = typeof environment === "object" && environment !== null ? environment : {};
  if (variables !== environment) settings.problems.push(`env (option): must be an object, got ${typeOf(environment)}`);
  settings.addVariables(variables, "environment", "the environment", [CONFIG_FILE]);

  const dotenv = parseDotenv(readText(resolve(cwd, ".env"), ".env", settings.problems, true) ?? "");
  settings.addVariables(dotenv, ".env", ".env", [CONFIG_FILE]);

  // Not `variables[CONFIG_FILE]`, because an inherited property is no setting.
  const named: unknown[] = [
    options.configFile,
    new Map(Object.entries(variables)).get(CONFIG_FILE),
    dotenv[CONFIG_FILE],
  ];
  const file = named.find((name) => name !== undefined && name !== "");
  if (typeof file === "string") readConfigFile(resolve(cwd, file), settings);
  else if (file !== undefined) settings.problems.push(`configFile: must be a path, got ${typeOf(file)}`);
}

function readConfigFile(path: string, settings: Settings): void {
  const text = readText(path, "configFile", settings.problems, false);
  if (text === undefined) return;
  let content: unknown;
  try {
    content = JSON.parse(text);
  } catch {
    // The parser's own message quotes the text, which may contain a password.
    settings.problems.push(`configFile: ${path} is not valid JSON`);
    return;
  }
  settings.addObject(content, "file", `file ${path}`, []);
}

function readText(path: string, what: string, problems: string[], mayBeMissing: boolean): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    const code = errorCode(error);
    if (code !== "ENOENT" || !mayBeMissing) problems.push(`${what}: ${path} cannot be read (${code})`);
    return undefined;
  }
}

function checkLogger(logger: unknown, problems: string[]): void {
  if (logger === undefined) return;
  const isObject = typeof logger === "object" && logger !== null;
  if (isObject && LOG_LEVELS.every((level) => typeof Reflect.get(logger, level) === "function")) return;
  problems.push(`logger (option): must have the methods ${LOG_LEVELS.join(", ")}`);
}

function checkProvider(provider: unknown, { username, password }: RedisOptions, problems: string[]): void {
  if (typeof provider !== "function") {
    problems.push(`redis.credentials (option): must be a function that gives credentials, got ${typeOf(provider)}`);
  }
  for (const [name, value] of Object.entries({ username, password })) {
    if (value) problems.push(`redis.${name} (option): conflicts with redis.credentials (option): give one of them`);
  }
}

function asMessage(problems: readonly string[]): string {
  return `the configuration is wrong: ${problems.join("; ")}`;
}
