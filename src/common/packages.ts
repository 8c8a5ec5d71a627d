import { createRequire } from "node:module";
import { ThreadStartFailedError } from "./errors.js";

/**
 * A CommonJS package by `require`: for the first one that is imported, each thread of Node compiles a lexer (WebAssembly)
 * that looks for its exports, 27 ms of CPU. Bundlers do not follow it: a bundle of which redthread became a part takes
 * what is installed for the redthread beside it.
 * @throws REDTHREAD_THREAD_START_FAILED where it cannot be loaded
 */
// oxlint-disable-next-line typescript/no-unnecessary-type-parameters -- its importer says what it is
export function requirePackage<T>(name: string): T {
  // A bundle in CommonJS has no place of its own.
  const here = createRequire(import.meta.url ?? process.argv[1]!);
  try {
    return find(here, name)(name) as T;
  } catch (cause) {
    const what = `${name}, which redthread needs, cannot be loaded; redthread may have been bundled into another file`;
    const todo = "make it external in your bundler's configuration and install it beside the bundle";
    throw new ThreadStartFailedError(`${what}: ${todo} (docs/operations.md, Bundlers)`, { outcome: "not-sent", cause });
  }
}

function find(here: NodeJS.Require, name: string): NodeJS.Require {
  try {
    here.resolve(name);
    return here;
  } catch {
    return createRequire(here.resolve("redthread/package.json"));
  }
}
