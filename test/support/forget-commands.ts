import { createRequire } from "node:module";

const require = createRequire(import.meta.url);

/**
 * From now on ioredis' table in this thread does not have these commands, as if a module had added them to the server.
 */
export function forgetCommands(...names: string[]): void {
  const table = createRequire(require.resolve("ioredis"))("@ioredis/commands/built/commands.json") as object;
  for (const name of names) delete (table as Record<string, unknown>)[name];
}
