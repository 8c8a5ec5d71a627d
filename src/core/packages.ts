import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { ThreadStartFailedError } from "./errors.js";

/**
 * A CommonJS package by `require`, one of our own or one that only `owner` depends on: for the first one that is imported,
 * each thread of Node compiles a lexer (WebAssembly) that looks for its exports, 27 ms of CPU. Bundlers do not follow it:
 * a bundle of which redthread became a part takes what is installed for the redthread beside it.
 * @throws REDTHREAD_THREAD_START_FAILED where it cannot be loaded
 */
// oxlint-disable-next-line typescript/no-unnecessary-type-parameters -- its importer says what it is
export function requirePackage<T>(name: string, owner?: string): T {
  try {
    const place = placeOf(owner ?? name);
    return (owner === undefined ? place : createRequire(place.resolve(owner)))(name) as T;
  } catch (cause) {
    throw bundled(`${name}, which redthread needs, cannot be loaded, perhaps`, cause);
  }
}

/** Something is not where redthread looks for it. */
export function bundled(what: string, cause?: unknown): ThreadStartFailedError {
  const why = "because redthread was bundled into another file";
  const todo = "make it external in your bundler's configuration and install it beside the bundle";
  const details = cause === undefined ? {} : { cause };
  return new ThreadStartFailedError(`${what} ${why}: ${todo} (docs/operations.md, Bundlers)`, {
    outcome: "not-sent",
    ...details,
  });
}

/**
 * The file that a thread of ours loads. Its place is known relative to this module, and is lost when a bundler moves this module
 * into another file: the thread would be waited for in vain. It is not written as bundlers look for it,
 * `new URL("…", import.meta.url)`: Turbopack and webpack would copy the file, without what it imports.
 */
export function threadFile(name: string): string {
  const path = `../../workers/${name}`;
  try {
    const file = fileURLToPath(new URL(path, import.meta.url));
    if (existsSync(file)) return file;
  } catch {
    // A bundle in CommonJS has no place of its own.
  }
  throw bundled("the file that redthread's threads load is missing,");
}

function placeOf(name: string): NodeJS.Require {
  // A bundle in CommonJS has no place of its own.
  const here = createRequire(import.meta.url ?? process.argv[1]!);
  try {
    here.resolve(name);
    return here;
  } catch {
    return createRequire(here.resolve("redthread/package.json"));
  }
}
