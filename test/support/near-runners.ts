import type { RedisHandle } from "../../src/worker.js";
import type { Command } from "./near-writes.js";

/** How commands are sent. Not every client may do it in each of these ways. */
export type Mode = "one by one" | "pipeline" | "transaction" | "MULTI and EXEC";

/** Resolves when the client knows that everything was written. */
export async function send(redis: RedisHandle, mode: Mode, commands: readonly Command[]): Promise<void> {
  const all = commands.map(([name, ...args]) => ["call", name, ...args]);
  switch (mode) {
    case "one by one":
      for (const [name, ...args] of commands) await redis.call(name, ...args);
      break;
    case "pipeline":
      check(await redis.pipeline(all).exec());
      break;
    case "transaction":
      check(await redis.multi(all).exec());
      break;
    case "MULTI and EXEC":
      await redis.multi({ pipeline: false });
      for (const [name, ...args] of commands) await redis.call(name, ...args);
      await redis.exec();
      break;
  }
}

export function check(results: readonly (readonly [Error | null, unknown])[] | null): void {
  for (const [error] of results ?? []) if (error) throw error;
}
