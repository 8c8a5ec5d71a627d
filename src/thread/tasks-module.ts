import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import type { TaskFunction } from "./task.js";

export type TasksModule = Readonly<Record<string, unknown>>;

const TYPESCRIPT = /\.[cm]?tsx?$/;
/** The value of `node --import`: the name, or the path or URL that the `tsx` command puts in its place. */
const LOADER = /(?:^|[\\/])tsx(?:[\\/]dist[\\/]loader\.mjs)?$/;

export async function loadTasks(tasks: string): Promise<TasksModule> {
  await registerTsx(tasks);
  return (await import(tasks)) as TasksModule;
}

/** All exports by name: of a CommonJS module Node may find only some of the names, or none, while its default has all. */
export function exportsOf(module: TasksModule): TasksModule {
  const { default: whole, ...named }: Record<string, unknown> = module;
  delete named["module.exports"]; // what Node 24 calls the default besides
  return typeof whole === "object" ? { ...whole, ...named } : named;
}

/** The functions that a module exports, without `setup` and `teardown`, which redthread calls, and without caches. */
export function tasksOf(module: TasksModule): [string, TaskFunction][] {
  return Object.entries(module).filter(
    (entry): entry is [string, TaskFunction] =>
      typeof entry[1] === "function" && entry[0] !== "setup" && entry[0] !== "teardown" && !("clear" in entry[1]),
  );
}

/**
 * Lets this thread load TypeScript in a process that was started with tsx, because before Node 22.22 and 24.11 tsx hooks
 * itself into the main thread only. Where tsx is in this thread already, a second registration changes nothing.
 */
async function registerTsx(tasks: string): Promise<void> {
  const loader = TYPESCRIPT.test(new URL(tasks).pathname) ? loaderIn(process.execArgv) : undefined;
  if (loader === undefined) return;
  const from = loader === "tsx" ? join(process.cwd(), "from here") : loader; // as Node resolves a bare --import
  const commonJs = createRequire(from).resolve("tsx/esm/api");
  // The CommonJS file looks for its hooks in a folder that does not exist; the ES module beside it does not.
  const esm = pathToFileURL(commonJs.replace(/\.cjs$/, ".mjs")).href;
  const tsx = (await import(esm)) as { register(): unknown };
  tsx.register();
}

function loaderIn(execArgv: readonly string[]): string | undefined {
  const imported = execArgv.map((arg, index) =>
    arg === "--import" ? execArgv[index + 1] : /^--import=(.*)/.exec(arg)?.[1],
  );
  return imported.find((value) => value !== undefined && LOADER.test(value));
}
