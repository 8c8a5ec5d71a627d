import assert from "node:assert/strict";
import { once } from "node:events";
import type { TestContext } from "node:test";
import { connect, type ConnectOptions, disconnect, type RedthreadError } from "../../src/index.js";
import { beginLeakCheck, leakCheck } from "./leak-check.js";
import { code } from "./manage.js";
import type { RedisServer } from "./redis-server.js";

export type Redis = Awaited<ReturnType<typeof connect>>;
export type Refusal = RedthreadError & { command?: string; reason?: string };

/** A client of `connect()`. It is closed after the test, and then the server lists no client. */
export async function own(
  t: TestContext,
  server: RedisServer,
  { redis = {}, ...options }: ConnectOptions = {},
): Promise<Redis> {
  beginLeakCheck(t);
  const handle = await connect({ env: {}, ...options, redis: { port: server.port, ...redis } });
  t.after(() => disconnect(handle));
  leakCheck(t, server);
  return handle;
}

export async function lose(redis: Redis): Promise<void> {
  redis.stream.destroy();
  await once(redis, "close");
}

export async function loseAndReturn(redis: Redis): Promise<void> {
  await lose(redis);
  await redis.connect();
}

/** All replies arrive in order, and none goes to another command. */
export async function echoes(redis: Redis): Promise<void> {
  const words = Array.from({ length: 5 }, (_, i) => `word ${i}`);
  assert.deepEqual(await Promise.all(words.map((word) => redis.echo(word))), words);
}

/** For `assert.rejects`: the command is refused by name, on every client. */
export function isRefused(command: string): (error: unknown) => boolean {
  return (error) => {
    const refusal = error as Refusal;
    assert.ok(code("COMMAND_REFUSED")(error), String(error));
    assert.deepEqual([refusal.outcome, refusal.command], ["refused", command]);
    assert.ok(refusal.reason);
    return true;
  };
}
