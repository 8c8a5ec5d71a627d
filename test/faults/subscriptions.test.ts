import assert from "node:assert/strict";
import { after, before, test, type TestContext } from "node:test";
import type { ConnectionManager, ManagerOptions } from "../../src/index.js";
import type * as Tasks from "../fixtures/topology-tasks.js";
import { eventually } from "../support/gate.js";
import { code, fixture, manage } from "../support/manage.js";
import { type Proxy, startProxy } from "../support/proxy.js";
import { type RedisServer, startRedis } from "../support/redis-server.js";

// What a listener receives when its connection is lost, refused and opened anew, and what is left when it stops.

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
after(() => server.stop());

type Manager = ConnectionManager<typeof Tasks>;

async function behindProxy(t: TestContext, redis: ManagerOptions["redis"] = {}): Promise<[Manager, Proxy]> {
  const proxy = await startProxy(server.port);
  t.after(() => proxy.close());
  const manager = manage<typeof Tasks>(t, server, {
    tasks: fixture("topology-tasks"),
    retry: { baseDelayMs: 10, maxDelayMs: 100 },
    redis: { port: proxy.port, ...redis },
    threads: { count: 1 },
  });
  return [manager, proxy];
}

async function receivers(channel: string): Promise<number> {
  return Number((await server.admin.pubsub("NUMSUB", channel))[1]);
}

/** Publishes again and again, because the server may not have noticed yet that the last connection is gone. */
async function isHeard(channel: string, heard: readonly string[], message: string): Promise<void> {
  const isThere = async (): Promise<boolean> => {
    await server.admin.publish(channel, message);
    return heard.includes(message);
  };
  await eventually(isThere, 20_000, `${message} is heard`);
}

test("a subscription survives a second cut while it comes back from the first", async (t) => {
  const [manager, proxy] = await behindProxy(t);
  const heard: string[] = [];
  await manager.subscribe("twice cut", (message) => heard.push(message));
  for (let round = 0; round < 20; round++) {
    proxy.reset();
    // In the reply to HELLO, in the replies after it, and in the reply to SUBSCRIBE.
    proxy.cutAfterReplyBytes(1 + round * 40);
    await isHeard("twice cut", heard, `message ${round}`);
    proxy.cutNothing();
  }
});

test("a subscription that the server refuses for a moment comes back, and health reports it meanwhile", async (t) => {
  const users = ["ACL", "SETUSER", "hearer", "on", ">pw", "~*", "+@all"] as const;
  await server.admin.call(...users, "&*");
  const [manager, proxy] = await behindProxy(t, { username: "hearer", password: "pw" });
  const [heard, others]: [string[], string[]] = [[], []];
  await manager.subscribe("refused", (message) => heard.push(message));
  await manager.subscribe("allowed", (message) => others.push(message));
  await manager.ready();
  await server.admin.call(...users, "resetchannels", "&allowed");
  await isHeard("allowed", others, "the other one is back");
  assert.equal(await receivers("refused"), 0);
  await eventually(() => manager.health().reasons.includes("some subscriptions are not back yet"));
  proxy.reset();
  await isHeard("allowed", others, "and back again");
  await server.admin.call(...users, "&*");
  await isHeard("refused", heard, "back");
  await eventually(() => manager.health().reasons.length === 0);
});

for (const options of [{}, { pattern: true }, { sharded: true }]) {
  const [kind] = Object.keys(options);
  test(`a listener of a ${kind ?? "channel"} is told of the gap before the first message after it`, async (t) => {
    const [manager, proxy] = await behindProxy(t, { keyPrefix: "app:" });
    const heard: (number | "gap")[] = [];
    const onGap = (): number => heard.push("gap");
    await manager.subscribe("flood", (message) => heard.push(Number(message)), { ...options, onGap });
    let isOver = false;
    const flood = (async () => {
      for (let n = 1; !isOver; n++)
        if (kind === "sharded") await server.admin.spublish("app:flood", String(n));
        else await server.admin.publish("flood", String(n));
    })();
    for (let cut = 1; cut <= 10; cut++) {
      const { length } = heard;
      await eventually(() => heard.length > length + 10, 20_000, "it hears again");
      proxy.reset();
      await eventually(() => heard.filter((one) => one === "gap").length >= cut, 20_000, "the gap is told");
    }
    isOver = true;
    await flood;
    let last = 0;
    for (const [i, one] of heard.entries()) {
      if (one === "gap") continue;
      assert.ok(
        one === last + 1 || heard[i - 1] === "gap",
        `${one} comes after ${last}, and no gap was told before it`,
      );
      last = one;
    }
  });
}

test("a subscription that is stopped in an outage is not restored", async (t) => {
  const [manager, proxy] = await behindProxy(t, { whenDown: "fail" }); // no UNSUBSCRIBE is held until the end of the outage
  const heard: string[] = [];
  const stopOne = await manager.subscribe("stopped", () => {});
  const stopOther = await manager.subscribe("stopped", () => {});
  await manager.subscribe("kept", (message) => heard.push(message));
  proxy.down();
  proxy.reset();
  await eventually(() => manager.health().reasons.includes("the subscriber client is connecting"));
  await stopOne();
  await stopOther();
  await proxy.up();
  await isHeard("kept", heard, "kept");
  assert.equal(await receivers("stopped"), 0);
});

test("a stop that the server refused can be called again", async (t) => {
  const users = ["ACL", "SETUSER", "stopper", "on", ">pw", "~*", "&*"] as const;
  await server.admin.call(...users, "+@all", "-unsubscribe");
  const [manager] = await behindProxy(t, { username: "stopper", password: "pw" });
  const stop = await manager.subscribe("kept on", () => {});
  await assert.rejects(stop(), /NOPERM/);
  assert.equal(await receivers("kept on"), 1);
  await server.admin.call(...users, "+@all");
  await stop();
  assert.equal(await receivers("kept on"), 0);
});

test("a stop during a lost connection leaves nothing at the server", async (t) => {
  const [manager, proxy] = await behindProxy(t);
  const heard: string[] = [];
  await manager.subscribe("other", (message) => heard.push(message));
  for (let round = 0; round < 10; round++) {
    const stop = await manager.subscribe("short", () => {});
    if (round % 2 === 0) proxy.cutAfterRequestBytes(1);
    const stopping = stop();
    if (round % 2 === 1) proxy.reset();
    await stopping.catch(() => stop());
    await isHeard("other", heard, `message ${round}`);
    await eventually(async () => (await receivers("short")) === 0, 5_000, "it is gone");
  }
});

test("a subscription that failed for its caller is not kept by the server", async (t) => {
  const [manager, proxy] = await behindProxy(t, { commandTimeoutMs: 500 });
  const heard: string[] = [];
  await manager.subscribe("first", (message) => heard.push(message));
  server.freeze();
  const late = manager.subscribe("late", () => assert.fail("nobody was subscribed"));
  await assert.rejects(late, (error) => code("COMMAND_TIMEOUT")(error) || code("REPLY_LOST")(error));
  server.thaw();
  await isHeard("first", heard, "again");
  await eventually(async () => (await receivers("late")) === 0, 10_000, "it is gone");
  proxy.close();
});

test("a listener gets the bytes of a message if it asks for Buffers, and a pattern's the channel's name", async (t) => {
  const manager = (await behindProxy(t))[0];
  const bytes = Buffer.from(Array.from({ length: 128 }, (_, i) => 0x80 + i));
  const heard: Record<string, unknown[]> = { plain: [], text: [], pattern: [], sharded: [] };
  const note =
    (kind: string) =>
    (message: Buffer, channel: string): void => {
      heard[kind]!.push(channel, Buffer.from(message));
      message.fill(0); // this listener has its own copy
    };
  const stops = await Promise.all([
    manager.subscribe("bytes:1", note("plain"), { buffers: true }),
    manager.subscribe("bytes:1", (message: string) => heard["text"]!.push(message)),
    manager.subscribe("bytes:*", note("pattern"), { buffers: true, pattern: true }),
    manager.subscribe("bytes:1", note("sharded"), { buffers: true, sharded: true }),
  ]);
  await server.admin.publish("bytes:1", bytes);
  await server.admin.spublish("bytes:1", bytes);
  await eventually(() => Object.values(heard).every(({ length }) => length > 0));
  for (const kind of ["plain", "pattern", "sharded"]) assert.deepEqual(heard[kind], ["bytes:1", bytes]);
  assert.deepEqual(heard["text"], [bytes.toString()]);
  for (const stop of stops) await stop();
  assert.equal(await server.admin.publish("bytes:1", bytes), 0);
  assert.equal(await server.admin.spublish("bytes:1", bytes), 0);
});

test("a sharded pattern is refused before anything is opened", async (t) => {
  const manager = (await behindProxy(t))[0];
  await assert.rejects(
    manager.subscribe("a*", () => {}, { sharded: true, pattern: true }),
    code("CONFIG_INVALID"),
  );
  assert.ok(!(await server.clients()).some(({ name }) => name.endsWith(":subscriber")));
});
