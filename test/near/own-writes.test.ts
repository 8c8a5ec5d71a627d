import assert from "node:assert/strict";
import { after, test, type TestContext } from "node:test";
import { parseArgs } from "node:util";
import { connect, type ConnectionManager, disconnect, type ManagerOptions } from "../../src/index.js";
import type * as Tasks from "../fixtures/near-own-tasks.js";
import { eventually } from "../support/gate.js";
import { fixture, manage } from "../support/manage.js";
import { type Mode, send } from "../support/near-runners.js";
import { NearRace } from "../support/near-race.js";
import { NearRounds } from "../support/near-watch.js";
import { type Command, failing, FLUSHES, LIBRARY, LONG_SCRIPT_MS, PATHS, RENAMED } from "../support/near-writes.js";
import { startProxy } from "../support/proxy.js";
import { startRedis } from "../support/redis-server.js";

// Nobody hears of a write from the server in these tests, and still the lease goes on: what a thread sees of a write, it owes to the
// client that wrote. So a value that is not dropped stays, and is seen.

const LIMIT = { timeout: 120_000 };
/** In the race, of all clients together: `node dist/test/near/own-writes.test.js --writes 100000`. */
const { values: args } = parseArgs({ options: { writes: { type: "string" } }, strict: false });
const RACED = Number(args["writes"] ?? 3_000);
const THREADS = 2;
const MODES: readonly Mode[] = ["one by one", "pipeline", "transaction", "MULTI and EXEC"];
const SHARED_MODES = MODES.slice(0, 3);

const renamed = Object.entries(RENAMED).flatMap(([name, to]) => ["--rename-command", name, to]);
const server = await startRedis({ args: renamed });
const locked = await startRedis({ args: ["--requirepass", "secret"], observer: { password: "secret" } });
const proxy = await startProxy(server.port);
after(async () => {
  proxy.close();
  await Promise.all([server.stop(), locked.stop()]);
});
proxy.filterReplies = (chunk, end) => {
  if (chunk.includes("no reply")) end("cut");
  else if (chunk.includes("late reply")) end("dark");
  else return withoutInvalidations(chunk);
  return Buffer.alloc(0);
};
await server.admin.call("FUNCTION", "LOAD", LIBRARY);
await server.admin.script("LOAD", FLUSHES);

/** Of the ways to change a key, one of each kind. */
const SOME = pick("set", "unlink", "flushdb", "swapdb", "rename", "append", "fcall", "the command of a module");

function pick(...names: string[]): typeof PATHS {
  return Object.fromEntries(names.map((name) => [name, PATHS[name]!]));
}

/** The server sends an invalidation as a whole, behind or before replies. */
function withoutInvalidations(chunk: Buffer): Buffer {
  const text = chunk.toString("latin1");
  const rest = text.replace(/>2\r\n\$10\r\ninvalidate\r\n(?:_\r\n|\*\d+\r\n(?:\$\d+\r\n[^\r]*\r\n)+)/g, "");
  return Buffer.from(rest, "latin1");
}

type Manager = ConnectionManager<typeof Tasks>;
type World = Awaited<ReturnType<typeof watched>>;
type Write = (commands: readonly Command[]) => Promise<unknown>;

/** A manager with a watcher in each thread, until it is disposed of. */
async function watched(t: TestContext, options: Partial<ManagerOptions> = {}, race?: NearRace) {
  const manager: Manager = manage<typeof Tasks>(t, server, {
    tasks: fixture("near-own-tasks"),
    nearCache: { prefixes: ["near:"], maxStaleMs: 10_000 }, // a busy machine does not end the lease
    ...options,
    redis: { port: proxy.port, ...options.redis },
  });
  await manager.ready();
  const { keyPrefix, commandTimeoutMs } = options.redis ?? {};
  const ownRedis: Tasks.OwnRedis = { port: proxy.port, keyPrefix, commandTimeoutMs };
  const own = await connect({ env: {}, redis: ownRedis });
  const rounds = new NearRounds();
  const given = { rounds: rounds.buffer, race: race?.buffer };
  const watching = Promise.all(manager.stats().threads.map(() => manager.run("watch", given)));
  const isInEach = (): boolean => manager.stats().threads.every(({ running }) => running === 1);
  await eventually(() => rounds.joined === THREADS && isInEach());
  return {
    manager,
    own,
    ownRedis,
    rounds,
    async [Symbol.asyncDispose]() {
      rounds.end();
      race?.end();
      const told = await watching;
      await disconnect(own);
      for (const { problems, raced } of told) {
        assert.deepEqual(problems, []);
        if (race) assert.ok(raced && raced.reads > 100 && raced.stale === 0, JSON.stringify(raced));
      }
    },
  };
}

/** The clients of a process, and in how many ways each sends commands. */
function clientsOf({
  manager,
  own,
  ownRedis,
}: World): Record<string, readonly [readonly Mode[], (mode: Mode) => Write]> {
  const inThread =
    (client: Parameters<typeof Tasks.write>[0]["client"]) =>
    (mode: Mode): Write =>
    (commands) =>
      manager.run("write", { client, mode, redis: ownRedis, commands });
  return {
    primary: [SHARED_MODES, (mode) => (commands) => manager.use((redis) => send(redis, mode, commands))],
    "connect() on the main thread": [MODES, (mode) => (commands) => send(own, mode, commands)],
    getRedis: [SHARED_MODES, inThread("thread")],
    withDedicated: [MODES, inThread("dedicated")],
    "connect() in a thread": [MODES, inThread("connect")],
    sync: [SHARED_MODES, inThread("sync")],
  };
}

async function step(
  { manager, rounds }: World,
  key: string,
  write: () => Promise<unknown>,
  keyPrefix = "",
): Promise<void> {
  await rounds.warm(key, THREADS);
  await manager.near.get(key);
  await write();
  const seen = [manager.near.peek(key), await manager.near.get(key)];
  const truth = await server.admin.getBuffer(keyPrefix + key).catch(() => undefined);
  if (truth === undefined) return; // no text
  const text = truth && truth.toString();
  assert.deepEqual(seen, [seen[0] === undefined ? undefined : text, text], `on the main thread: ${key}`);
  await rounds.look(key, truth, THREADS);
}

test("in these tests the server's word does not come", LIMIT, async (t) => {
  await using world = await watched(t);
  const { manager } = world;
  await eventually(async () => (await manager.near.get("near:untold"), manager.near.peek("near:untold") === null));
  await server.admin.set("near:untold", "by others");
  for (let i = 0; i < 100; i++) {
    assert.equal(await manager.near.get("near:untold"), null);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
});

test(
  "a write that has resolved is seen by all threads at once, by whatever client and command it was written",
  LIMIT,
  async (t) => {
    await using world = await watched(t);
    for (const [client, [modes, writeIn]] of Object.entries(clientsOf(world)))
      for (const mode of modes)
        for (const [name, path] of Object.entries(mode === "one by one" ? PATHS : SOME)) {
          const key = `near:${client}, ${mode}, ${name}`;
          for (const n of [1, 2]) await step(world, key, () => writeIn(mode)(path(key, n)));
        }
  },
);

test("while a key is written and read at the same time, no read finds less than what had been written before it", async (t) => {
  const race = new NearRace();
  await using world = await watched(t, {}, race);
  const { manager, own, ownRedis } = world;
  const { buffer } = race;
  const reading = race.read(manager.near);
  const count = Math.ceil(RACED / 6);
  await race.write(count, (value) => own.set(NearRace.key, value));
  await race.write(count, (value) => manager.use((redis) => redis.set(NearRace.key, value)));
  for (const client of ["thread", "dedicated", "connect", "sync"] as const)
    await manager.run("writeRace", { client, redis: ownRedis, buffer, count });
  race.end();
  const { reads, stale } = await reading;
  assert.ok(reads > 100 && stale === 0, `${stale} of ${reads}`);
  assert.equal(race.written, 6 * count);
});

test("keys with redis.keyPrefix are seen at once, too", LIMIT, async (t) => {
  const keyPrefix = "app:";
  await using world = await watched(t, { redis: { keyPrefix } });
  for (const [client, [modes, writeIn]] of Object.entries(clientsOf(world)))
    for (const mode of modes)
      for (const [name, path] of Object.entries(SOME)) {
        const key = `near:${client}, ${mode}, ${name}`;
        for (const n of [1, 2]) await step(world, key, () => writeIn(mode)(path(key, n)), keyPrefix);
      }
});

test("what was read between a transaction's commands and its EXEC is dropped with the EXEC", LIMIT, async (t) => {
  await using world = await watched(t);
  const { manager, own, rounds } = world;
  const key = "near:transaction";
  await own.set(key, "before");
  await step(world, key, async () => {
    await own.multi({ pipeline: false });
    await own.set(key, "after");
    await rounds.warm(key, THREADS);
    assert.equal(await manager.near.get(key), "before");
    await own.exec();
  });
});

function saying(what: RegExp) {
  return ({ code, message }: { code?: string; message: string }): boolean => what.test(`${code} ${message}`);
}

test("FUNCTION and SWAPDB, which name no key, drop everything", LIMIT, async (t) => {
  await using world = await watched(t);
  const { manager, rounds } = world;
  const key = "near:dropped";
  for (const [client, [modes, writeIn]] of Object.entries(clientsOf(world)))
    for (const mode of modes)
      for (const command of [
        ["function", "LOAD", "REPLACE", LIBRARY],
        ["swapdb", 0, 0],
      ] as const) {
        await rounds.warm(key, THREADS);
        assert.equal(await isServed(manager, key), true);
        const { flushes } = manager.stats().near!;
        await writeIn(mode)([command]);
        assert.equal(manager.near.peek(key), undefined, `${client}, ${mode}, ${command[0]}`);
        assert.ok(manager.stats().near!.flushes > flushes, "not because nothing may be served");
      }
});

async function isServed({ near }: Manager, key: string): Promise<boolean> {
  return eventually(async () => (await near.get(key), near.peek(key) !== undefined));
}

for (const [how, error] of [
  ["error", /ERR after the write/],
  ["no reply", /REDTHREAD_REPLY_LOST/],
  ["late reply", /REDTHREAD_(?:COMMAND_TIMEOUT|REPLY_LOST)/],
  ["long script", /REDTHREAD_COMMAND_TIMEOUT/],
] as const)
  test(`a write that rejects has changed its key perhaps, which is then asked for: ${how}`, LIMIT, async (t) => {
    // Less than the script takes, and more than what is left of it then: the reads that follow must not time out.
    const commandTimeoutMs = how === "long script" ? LONG_SCRIPT_MS / 1.5 : 500;
    await using world = await watched(t, { redis: { commandTimeoutMs } });
    for (const [client, [, writeIn]] of Object.entries(clientsOf(world))) {
      // The readers' commands wait on the same connection.
      if (how === "late reply" && ["primary", "getRedis"].includes(client)) continue;
      const key = `near:rejected, ${client}`; // without a name that the proxy looks for
      for (const n of how === "long script" ? [1] : [1, 2])
        await step(world, key, () =>
          assert.rejects(async () => writeIn("one by one")(failing(how)(key, n)), saying(error)),
        );
    }
    proxy.blackhole(false);
  });

test("a synchronous client gets its login beside a near cache, too", LIMIT, async (t) => {
  const manager: Manager = manage<typeof Tasks>(t, locked, {
    tasks: fixture("near-own-tasks"),
    nearCache: { prefixes: ["near:"] },
    redis: { credentials: () => Promise.resolve({ password: "secret" }), commandTimeoutMs: 2_000 },
  });
  await manager.ready();
  const commands = [["set", "near:sync", 1]] as const;
  await manager.run("write", { client: "sync", mode: "one by one", redis: { port: locked.port }, commands });
  assert.equal(await manager.near.get("near:sync"), "1");
});
