import { createRequire } from "node:module";

const require = createRequire(import.meta.url);

/** From now on ioredis' table knows these commands no more than those of a module, in this thread; real servers know them. */
export function forgetCommands(...names: string[]): void {
  const table = createRequire(require.resolve("ioredis"))("@ioredis/commands/built/commands.json") as object;
  for (const name of names) delete (table as Record<string, unknown>)[name];
}
