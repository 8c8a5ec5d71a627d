import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { ThreadStartFailedError } from "./errors.js";

/**
 * A CommonJS package by `require`: a dependency of redthread, or of `owner`. The first `import` of a CommonJS package would make
 * each thread compile a lexer (WebAssembly) that looks for exports, which takes 27 ms of CPU. Bundlers do not follow this
 * call: a bundle that contains redthread loads the packages that are installed for the redthread beside it.
 * @throws REDTHREAD_THREAD_START_FAILED if it cannot be loaded
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

/** The error for a file or package that is not where redthread looks for it. */
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
 * The file that a thread of redthread loads. Its place is known relative to this module, and is lost when a bundler moves this
 * module into another file: the manager would wait for the thread in vain. It is not written as `new URL(…, import.meta.url)`,
 * because Turbopack and webpack would then copy the file without its imports.
 */
export function threadFile(name: string): string {
  try {
    const here = String(import.meta.url); // as a plain variable it would be found by Turbopack
    const file = fileURLToPath(new URL(`../../workers/${name}`, here));
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

// Node's permission model, which is on where a process was started with `--permission`.
const MODEL = /^--(?:(?:experimental-)?permission$|allow-(?:fs|addons|child|worker|wasi|net|inspector))/;
const PATHS = /^--allow-fs-(?:read|write)$/;

/**
 * The flags that a thread with an `execArgv` of its own needs there. Node gives such a thread the permission model and the granted
 * permissions only if its `execArgv` names them again, and every permission otherwise.
 */
export function permissionFlags(argv: readonly string[] = process.execArgv): string[] {
  return argv.filter((arg, i) => MODEL.test(arg) || PATHS.test(argv[i - 1] ?? ""));
}
