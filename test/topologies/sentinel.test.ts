import assert from "node:assert/strict";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { connect, type ConnectionManager, disconnect, ReplyLostError } from "../../src/index.js";
import type * as Tasks from "../fixtures/topology-tasks.js";
import { makeCertificates } from "../support/certificates.js";
import { CountedLoad } from "../support/counted-load.js";
import { eventually } from "../support/gate.js";
import { code, fixture, manage } from "../support/manage.js";
import { startProxy } from "../support/proxy.js";
import { type RedisServer, startRedis } from "../support/redis-server.js";
import { NAME, nobodyAsks, type SentinelOptions, startSentinel, untilAsked, Watched } from "../support/sentinel.js";

const LIMIT = { timeout: 90_000 };
const THREADS = 2;

/** The manager of a watched pair; after the test no connection to its servers may be left. */
async function managed(
  t: TestContext,
  how?: Parameters<typeof Watched.start>[0],
): Promise<[ConnectionManager<typeof Tasks>, Watched]> {
  const watched = await Watched.start(how);
  const manager = manage<typeof Tasks>(t, watched.replica, {
    tasks: fixture("topology-tasks"),
    threads: { count: THREADS },
    redis: watched.redis,
  });
  t.after(async () => {
    await nobodyAsks(watched.sentinels);
    await watched[Symbol.asyncDispose]();
  });
  return [manager, watched];
}

/** A server under one sentinel. */
async function lone(t: TestContext, options?: SentinelOptions): Promise<[RedisServer, RedisServer]> {
  const server = await startRedis();
  const sentinel = await startSentinel(server, options);
  t.after(async () => {
    await nobodyAsks([sentinel]);
    await sentinel.stop();
    await server.stop();
  });
  return [server, sentinel];
}

/** A write that no replica has is as uncertain as one that was not answered. */
function startLoad(manager: ConnectionManager<typeof Tasks>): CountedLoad {
  return new CountedLoad({
    callers: 8,
    async write(key) {
      if ((await manager.run("incrReplicated", key)) < 1) throw new ReplyLostError("the master alone has it");
    },
  });
}

async function everyThreadIsAt(server: RedisServer, manager: ConnectionManager<typeof Tasks>): Promise<void> {
  const ids = manager.stats().threads.map(({ threadId }) => threadId);
  assert.equal(ids.length, THREADS);
  await server.waitForClients((clients) =>
    ids.every((id) => clients.some(({ name }) => name.endsWith(`:${id}:thread`))),
  );
}

test(
  "when the master is killed under load, no write that a replica has is lost, none runs twice, and each thread uses the new master",
  LIMIT,
  async (t) => {
    const [manager, watched] = await managed(t);
    const { master, replica } = watched;
    await manager.ready();
    await everyThreadIsAt(master, manager);
    const load = startLoad(manager);
    await load.progress(200);
    await master.killDuringWait(replica);
    await watched.failedOver();
    // It comes back as an empty master; the sentinels would make it a replica later.
    await master.start();
    await watched.follow();
    await load.progress(200, 30_000);
    await load.stop();
    t.diagnostic(load.summary());
    assert.deepEqual(await load.problems(replica), []);
    assert.ok(load.ledger.totals.uncertain + load.ledger.totals.notSent > 0, "the fault has hit no write");
    await everyThreadIsAt(replica, manager);
    assert.equal(await manager.run("incrBlocking", "after"), 1);
    assert.deepEqual(await master.clients(), []);
    await manager.shutdown();
    assert.deepEqual(await replica.clients(), []);
  },
);

test("when the old master stays a master after a failover, no connection stays there", LIMIT, async (t) => {
  const [manager, watched] = await managed(t, { masterArgs: ["--rename-command", "SLAVEOF", ""] }); // sentinels cannot demote it
  const { master, replica, sentinels } = watched;
  await manager.ready();
  const load = startLoad(manager);
  const heard: string[] = [];
  let gaps = 0;
  await manager.subscribe("news", (message) => void heard.push(message), { onGap: () => gaps++ });
  await load.progress(200);
  await sentinels[0]!.admin.call("SENTINEL", "FAILOVER", NAME);
  await watched.failedOver();
  await everyThreadIsAt(replica, manager);
  await master.waitForClients((clients) => clients.length === 0);
  // They learned it from no refused write and no lost connection.
  assert.match(await master.admin.info("replication"), /role:master/);
  await watched.follow();
  await load.progress(200, 30_000);
  await load.stop();
  t.diagnostic(load.summary());
  assert.deepEqual(await load.problems(replica), []);
  await eventually(() => gaps > 0);
  await replica.admin.publish("news", "x");
  await eventually(() => heard.includes("x"));
});

test(
  "sentinels that are dead, frozen or do not know the master cost time, but the connect succeeds",
  LIMIT,
  async (t) => {
    const [server, sentinel] = await lone(t);
    const [, frozen] = await lone(t);
    const [, stranger] = await lone(t);
    await stranger.admin.call("SENTINEL", "REMOVE", NAME);
    frozen.freeze();
    const sentinels = [1, frozen.port, stranger.port, sentinel.port].map((port) => ({ host: "127.0.0.1", port }));
    const redis = { sentinels, sentinelName: NAME, connectTimeoutMs: 2_000 };
    const client = await connect({ env: {}, redis, retry: { attempts: 1 } });
    assert.equal(await client.incr("n"), 1);
    await disconnect(client);
    await server.waitForClients((clients) => clients.length === 0);
    await assert.rejects(
      connect({ env: {}, redis: { ...redis, sentinels: sentinels.slice(0, 3) }, retry: { attempts: 1 } }),
      (error: Error) => {
        for (const { port } of sentinels.slice(0, 3))
          assert.match(error.message, new RegExp(`127\\.0\\.0\\.1:${port} `));
        assert.match(error.message, /ECONNREFUSED.*no answer within \d+ ms.*knows no master "m1"/);
        return code("CONNECT_FAILED")(error);
      },
    );
    frozen.thaw();
  },
);

test(
  "a server that has become a replica is not taken for the master, although the sentinels still name it",
  LIMIT,
  async (t) => {
    const [server, sentinel] = await lone(t);
    await server.admin.call("REPLICAOF", "127.0.0.1", "1");
    const redis = { sentinels: [{ host: "127.0.0.1", port: sentinel.port }], sentinelName: NAME };
    for (const protocol of [2, 3] as const) {
      const connecting = connect({ env: {}, redis: { ...redis, ioredis: { protocol } }, retry: { attempts: 1 } });
      await assert.rejects(connecting, /to m1: the sentinels lead to a (replica|slave)/);
    }
    await server.admin.call("REPLICAOF", "NO", "ONE");
    const shapes = [{ protocol: 2 }, { protocol: 3 }, { protocol: 3, replyMapping: "resp3" }] as const;
    for (const ioredis of shapes) await disconnect(await connect({ env: {}, redis: { ...redis, ioredis } }));
    await server.waitForClients((clients) => clients.length === 0);
  },
);

test("sentinels have their own password; a wrong one is AUTH_FAILED at once, and is not shown", LIMIT, async (t) => {
  const [, sentinel] = await lone(t, {
    lines: ["requirepass for-sentinels"],
    observer: { password: "for-sentinels" },
  });
  const env = { REDTHREAD_REDIS_SENTINELS: `127.0.0.1:${sentinel.port}`, REDTHREAD_REDIS_SENTINEL_NAME: NAME };
  const client = await connect({ env: { ...env, REDTHREAD_REDIS_SENTINEL_PASSWORD: "for-sentinels" } });
  assert.equal(await client.ping(), "PONG");
  await disconnect(client);
  await assert.rejects(connect({ env: { ...env, REDTHREAD_REDIS_SENTINEL_PASSWORD: "wrong-one" } }), (error: Error) => {
    assert.doesNotMatch(JSON.stringify(error) + error.stack!, /wrong-one/);
    return code("AUTH_FAILED")(error);
  });
});

test(
  "the master's address is translated by natMap, and the server there is not taken for another one",
  LIMIT,
  async (t) => {
    const [server, sentinel] = await lone(t);
    const proxy = await startProxy(server.port);
    t.after(() => proxy[Symbol.asyncDispose]());
    const natMap = { [`127.0.0.1:${server.port}`]: { host: "127.0.0.1", port: proxy.port } };
    const sentinels = [{ host: "127.0.0.1", port: sentinel.port }];
    const redis = await connect({ env: {}, redis: { sentinels, sentinelName: NAME, natMap } });
    const id = await redis.client("ID");
    assert.equal(proxy.connections, 1);
    await untilAsked(sentinel, 2);
    assert.equal(await redis.client("ID"), id);
    await disconnect(redis);
  },
);

test("sentinels are asked over TLS with the certificates of their own option", LIMIT, async (t) => {
  const certificates = await makeCertificates();
  const { folder, ca, client: pair } = certificates;
  const files = ["tls-cert-file server.crt", "tls-key-file server.key", "tls-ca-cert-file ca.crt"];
  const [, sentinel] = await lone(t, {
    lines: [...files.map((line) => line.replace(" ", ` ${join(folder, "/")}`)), "tls-auth-clients yes"],
    listen: (port) => ["port 0", `tls-port ${port}`],
    observer: { tls: { ca, ...pair } },
  });
  t.after(() => certificates[Symbol.asyncDispose]());
  const redis = { sentinels: [{ host: "localhost", port: sentinel.port }], sentinelName: NAME };
  const client = await connect({ env: {}, redis: { ...redis, sentinelTls: { ca, ...pair } } });
  assert.equal(await client.ping(), "PONG");
  await disconnect(client);
  await assert.rejects(connect({ env: {}, redis, retry: { attempts: 1 } }), code("CONNECT_FAILED"));
});
