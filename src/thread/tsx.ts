import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const TYPESCRIPT = /\.[cm]?tsx?$/;
/** What `node --import` gets: the name, or the path or URL that the `tsx` command puts in its place. */
const LOADER = /(?:^|[\\/])tsx(?:[\\/]dist[\\/]loader\.mjs)?$/;

/**
 * In a process that was started with tsx, lets this thread load TypeScript too: before Node 22.22 and 24.11 tsx hooks
 * itself into the main thread only. Where it is in this thread already, a second registration changes nothing.
 */
export async function registerTsx(tasks: string, execArgv: readonly string[] = process.execArgv): Promise<void> {
  const loader = TYPESCRIPT.test(new URL(tasks).pathname) ? loaderIn(execArgv) : undefined;
  if (loader === undefined) return;
  const from = loader === "tsx" ? join(process.cwd(), "from here") : loader; // as Node resolves a bare --import
  const commonJs = createRequire(from).resolve("tsx/esm/api");
  // The twin that `require` is shown looks for its hooks in a folder that does not exist.
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
