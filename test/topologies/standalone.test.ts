import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { connect, type ConnectionManager, type ManagerOptions } from "../../src/index.js";
import type * as Tasks from "../fixtures/topology-tasks.js";
import { type Certificates, makeCertificates } from "../support/certificates.js";
import { CountedLoad } from "../support/counted-load.js";
import { eventually } from "../support/gate.js";
import { code, fixture, manage } from "../support/manage.js";
import { type ListedClient, type RedisServer, type RedisServerOptions, startRedis } from "../support/redis-server.js";

const LIMIT = { timeout: 60_000 };
const THREADS = 2;
const USERS = [
  "user default off",
  "user observer on >observer-pw ~* &* +@all",
  "user app on >app-pw ~call:* ~after &news +@all -@admin -@dangerous +client|setname",
].join("\n");

let certificates: Certificates;
before(async () => {
  certificates = await makeCertificates();
});
after(() => certificates[Symbol.asyncDispose]());

interface Topology {
  readonly server?: () => RedisServerOptions;
  readonly options: (server: RedisServer) => Pick<ManagerOptions, "env" | "redis">;
  /** How CLIENT LIST shows a connection of the manager. */
  readonly is: (client: ListedClient) => boolean;
}

const TOPOLOGIES: Readonly<Record<string, Topology>> = {
  "plain TCP": {
    options: ({ port }) => ({ redis: { port } }),
    is: ({ addr }) => addr.startsWith("127.0.0.1:"),
  },
  "an address in the environment": {
    options: ({ port }) => ({ redis: { port: undefined }, env: { REDIS_HOST: "127.0.0.1", REDIS_PORT: String(port) } }),
    is: ({ addr }) => addr.startsWith("127.0.0.1:"),
  },
  "a Unix socket": {
    server: () => ({ args: ["--unixsocket", "redis.sock"] }),
    options: ({ folder }) => ({ redis: { port: undefined, path: join(folder, "redis.sock") } }),
    is: ({ flags }) => flags.includes("U"),
  },
  "TLS with an authority of one's own": {
    server: () => ({ tls: { certificates, mutual: false } }),
    options: ({ port }) => ({ redis: { port, tls: { ca: certificates.ca } } }),
    is: ({ user }) => user === "default",
  },
  "TLS with a client's certificate": {
    server: () => ({ tls: { certificates, mutual: true } }),
    options: ({ port }) => ({ redis: { port, tls: { ca: certificates.ca, ...certificates.client } } }),
    is: ({ user }) => user === "default",
  },
  "a rediss:// url with a user and a database": {
    server: () => ({ tls: { certificates, mutual: false }, acl: USERS, observer: OBSERVER }),
    options: ({ port }) => ({
      redis: { port: undefined, tls: { ca: certificates.ca } },
      env: { REDIS_URL: `rediss://app:app-pw@localhost:${port}/0` },
    }),
    is: ({ user }) => user === "app",
  },
  "a user of an ACL file": {
    server: () => ({ acl: USERS, observer: OBSERVER }),
    options: ({ port }) => ({ redis: { port, username: "app", password: "app-pw" } }),
    is: ({ user }) => user === "app",
  },
};

const OBSERVER = { username: "observer", password: "observer-pw" };

async function start(options: RedisServerOptions = {}): Promise<RedisServer> {
  const server = await startRedis(options);
  await server.admin.ping();
  return server;
}

for (const [name, { server: how, options, is }] of Object.entries(TOPOLOGIES)) {
  test(`over ${name} threads serve, reconnect after every cut, and leave no connection`, LIMIT, async (t) => {
    const server = await start(how?.());
    const manager = manage<typeof Tasks>(t, server, { tasks: fixture("topology-tasks"), ...options(server) });
    t.after(() => server.stop());
    await manager.ready();
    await checkSubscription(manager, server);
    const load = startLoad(manager);
    await load.progress(100);
    for (let cut = 0; cut < 3; cut++) {
      // A connection that has not logged in yet has no user.
      await server.waitForClients((clients) => clients.length >= THREADS && clients.every(is));
      await server.admin.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
      await load.progress(100);
    }
    await load.stop();
    t.diagnostic(load.summary());
    assert.deepEqual(await load.problems(server), []);

    await server.restart();
    // A thread that has not noticed yet would write to the connection that is gone.
    await server.waitForClients((clients) => clients.length >= THREADS && clients.every(is));
    const counted = await Promise.all(Array.from({ length: 20 }, () => manager.run("incr", "after")));
    assert.equal(Math.max(...counted), 20);
    assert.equal(await manager.run("incrBlocking", "after"), 21);
    assert.ok(manager.stats().threads.every(({ reconnects }) => reconnects >= 2));
    await manager.shutdown();
    assert.deepEqual(await server.clients(), []);
  });
}

test("a server with an untrusted certificate is CONNECT_FAILED, and the cause says so", LIMIT, async (t) => {
  const server = await start({ tls: { certificates, mutual: false } });
  t.after(() => server.stop());
  const redis = { port: server.port, tls: true };
  await assert.rejects(connect({ env: {}, redis, retry: { attempts: 1 } }), (error: Error) => {
    assert.match(error.message, /certificate/);
    return code("CONNECT_FAILED")(error);
  });
  await server.waitForClients((clients) => clients.length === 0);
});

test(
  "without the client certificate that a server wants, connecting is CONNECT_FAILED, and the cause says so",
  LIMIT,
  async (t) => {
    const server = await start({ tls: { certificates, mutual: true } });
    t.after(() => server.stop());
    const redis = { port: server.port, tls: { ca: certificates.ca } };
    await assert.rejects(connect({ env: {}, redis, retry: { attempts: 1 } }), (error: Error) => {
      assert.match(error.message, /certificate/);
      return code("CONNECT_FAILED")(error);
    });
    await server.waitForClients((clients) => clients.length === 0);
  },
);

function startLoad(manager: ConnectionManager<typeof Tasks>): CountedLoad {
  let writes = 0;
  return new CountedLoad({
    callers: 8,
    write: (key) => manager.run(++writes % 2 === 0 ? "incrDedicated" : "incr", key),
  });
}

async function checkSubscription(manager: ConnectionManager<typeof Tasks>, server: RedisServer): Promise<void> {
  const heard: string[] = [];
  const stop = await manager.subscribe("news", (message) => void heard.push(message));
  await server.admin.publish("news", "x");
  await eventually(() => heard.includes("x"));
  await stop();
}
