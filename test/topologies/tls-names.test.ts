import assert from "node:assert/strict";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { connect as connectTcp } from "node:net";
import { join } from "node:path";
import { after, before, test, type TestContext } from "node:test";
import { createSecureContext, createServer } from "node:tls";
import { examine } from "../../src/cli/doctor.js";
import { connect, type ConnectOptions, disconnect } from "../../src/index.js";
import { type Certificates, makeCertificates } from "../support/certificates.js";
import { Cluster } from "../support/cluster.js";
import { portOf } from "../support/proxy.js";
import { startRedis } from "../support/redis-server.js";
import { NAME, startSentinel } from "../support/sentinel.js";

const LIMIT = { timeout: 60_000 };
let certificates: Certificates;
before(async () => {
  certificates = await makeCertificates();
});
after(() => certificates[Symbol.asyncDispose]());

/** A TLS proxy in front of a server that records the name each client asks for. */
async function front(t: TestContext, target: number): Promise<{ port: number; asked: string[] }> {
  const asked: string[] = [];
  const read = (name: string): Promise<string> => readFile(join(certificates.folder, name), "utf8");
  const named = createSecureContext({ cert: await read("server.crt"), key: await read("server.key") });
  const listener = createServer(
    {
      ...certificates.client,
      SNICallback: (name, choose) => {
        asked.push(name);
        choose(null, named);
      },
    },
    (socket) => {
      const upstream = connectTcp(target, "127.0.0.1");
      for (const [one, other] of [[socket, upstream] as const, [upstream, socket] as const]) {
        one.pipe(other);
        one.on("error", () => other.destroy());
        one.on("close", () => other.destroy());
      }
    },
  );
  listener.listen(0, "127.0.0.1");
  await once(listener, "listening");
  t.after(() => listener.close());
  return { port: portOf(listener), asked };
}

async function pings(redis: ConnectOptions["redis"], keys = ["k"]): Promise<string> {
  const client = await connect({ env: {}, redis: { ...redis }, retry: { attempts: 1 } });
  try {
    for (const key of keys) await client.set(key, 1);
    return await client.ping();
  } finally {
    await disconnect(client);
  }
}

test("TLS tells the server the host name, or the configured name, but no IP address", LIMIT, async (t) => {
  const server = await startRedis();
  t.after(() => server.stop());
  const { port, asked } = await front(t, server.port);
  const tls = { ca: certificates.ca };
  const told = (): string[] => [...new Set(asked.splice(0))];
  assert.equal(await pings({ host: "localhost", port, tls }), "PONG");
  assert.deepEqual(told(), ["localhost"]);
  assert.equal(await pings({ host: "127.0.0.1", port, tls: { ...tls, servername: "localhost" } }), "PONG");
  assert.deepEqual(told(), ["localhost"]);
  const { checks } = await examine({ env: {}, redis: { host: "localhost", port, tls } });
  assert.equal(checks.find(({ check }) => check === "TLS")?.status, "warn"); // the certificate ends in two days
  assert.deepEqual(told(), ["localhost"]);
  assert.equal(await pings({ host: "127.0.0.1", port, tls: { rejectUnauthorized: false } }), "PONG");
  assert.deepEqual(told(), []);
});

test(
  "sentinels, the master that they name, and each node of a Cluster are told their names as well",
  LIMIT,
  async (t) => {
    const tls = { ca: certificates.ca };
    const master = await startRedis();
    t.after(() => master.stop());
    const sentinel = await startSentinel(master);
    t.after(() => sentinel.stop());
    const [watched, watching] = [await front(t, master.port), await front(t, sentinel.port)];
    const natMap = { [`127.0.0.1:${master.port}`]: { host: "localhost", port: watched.port } };
    const sentinels = [{ host: "localhost", port: watching.port }];
    assert.equal(await pings({ sentinels, sentinelName: NAME, sentinelTls: tls, tls, natMap }), "PONG");
    assert.ok(watched.asked.includes("localhost") && watching.asked.includes("localhost"));

    await using cluster = await Cluster.start({ masters: 3 });
    const fronts = await Promise.all(cluster.masters.map(({ port }) => front(t, port)));
    const clusterNodes = fronts.map(({ port }) => ({ host: "localhost", port }));
    const map = Object.fromEntries(
      cluster.masters.map(({ port }, i) => [`127.0.0.1:${port}`, clusterNodes[i]!] as const),
    );
    const keys = [0, 1, 2].map((shard) => cluster.keyOn(shard));
    assert.equal(await pings({ clusterNodes, natMap: map, tls }, keys), "PONG");
    for (const { asked } of fronts) assert.deepEqual([...new Set(asked)], ["localhost"]);
  },
);
