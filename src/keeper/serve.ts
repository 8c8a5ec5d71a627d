// keeper is the thread that extends the locks of all other threads and never runs users' code, so that no computation of
// theirs can keep it from that. Start here: serve.ts connects and receives messages, keeper.ts looks at the locks. The room
// may import locks, clients and everything below them, and never main, thread or helper.
import { parentPort, workerData } from "node:worker_threads";
import { clientMaker, openClient, type OpenOptions } from "../clients/open-client.js";
import type { AskedChannel } from "../commands/asked-channels.js";
import { type Config, freezeConfig } from "../config/options.js";
import type { Handle } from "../commands/handle.js";
import { Logins } from "../connection/credentials.js";
import { Client } from "../connection/client.js";
import { isLogged, type Logger, loggerOf, plainFields } from "../core/log.js";
import { connectionName } from "../core/names.js";
import { ConnectGate, ownGate } from "../gate/connect-gate.js";
import { fromErrorData, toErrorData } from "../link/error-serialization.js";
import { KeeperLedger } from "../locks/keeper-ledger.js";
import type { FromKeeper, KeeperData, KeeperNear, ToKeeper } from "../locks/keeper-protocol.js";
import { nodeOf } from "../locks/lock-nodes.js";
import { Keeper } from "./keeper.js";
import { LockQueues } from "./lock-queues.js";
import { ReplicatedWrites } from "./replicated-writes.js";
import type { Tracking } from "./tracking.js";

const post = (message: FromKeeper): void => parentPort!.postMessage(message);

/** Connects, and keeps the locks of the threads that are attached, until the host says close. */
export function keep(): void {
  const data = workerData as KeeperData;
  const logins = data.hasProvider ? new Logins((refused) => post({ type: "loginWanted", refused })) : undefined;
  const life = new AbortController();
  const keeper = connected(data, logins, life.signal);
  keeper.then(
    () => post({ type: "ready" }),
    (error: unknown) => {
      post({ type: "failed", error: toErrorData(error) });
      parentPort!.close(); // the next lock starts another keeper
    },
  );
  parentPort!.on("message", (message: ToKeeper) => {
    switch (message.type) {
      case "attach":
      case "table":
      case "gone":
        keeper.then(
          (made) => made.receive(message),
          () => {}, // the next keeper gets them
        );
        break;
      case "login":
        logins?.came(message.login);
        break;
      case "loginFailed":
        logins?.failed(fromErrorData(message.error));
        break;
      case "close":
        life.abort(); // if it is not connected yet
        void close(keeper, message.closeMs);
        break;
    }
  });
}

async function connected(data: KeeperData, logins: Logins | undefined, life: AbortSignal): Promise<Keeper> {
  const config = freezeConfig(data.config);
  const { redis, retry, appName, shutdown } = config;
  const role = "keeper";
  const ledger = new KeeperLedger(data.ledger);
  const logger = loggerOf((level, message, fields) => {
    if (!isLogged(level, config.log.level)) return;
    post({ type: "logs", records: [{ level, message, fields: plainFields(fields) }], dropped: 0 });
  });
  let queues: LockQueues | undefined;
  const gate = data.gate ? new ConnectGate(data.gate, config, ConnectGate.keeperRow(config)) : ownGate(config);
  const optionsOf = (field: "open" | "replicasOpen"): OpenOptions => ({
    redis: { ...redis, keyPrefix: "" }, // the locks' keys have it
    retry,
    role,
    logger,
    name: connectionName(appName, role),
    gate,
    logins,
    onState: (state, previous) => {
      if (previous === "connected") ledger.add(field, -1);
      if (state === "connected") ledger.add(field, 1);
      if (field !== "open") return;
      if (previous === "connected") tracking?.lost();
      if (state === "connected") tracking?.connected();
    },
  });
  let tracking: Tracking | undefined;
  const main = {
    ...optionsOf("open"),
    // The host tells of a failure, once for all keepers that meet it.
    logger: loggerOf((level, message, fields) => logger[level === "error" ? "debug" : level](message, fields)),
    onResubscribed: (asked: AskedChannel) => queues?.resubscribed(asked),
  };
  const client = await openClient(main, shutdown.closeMs, life);
  if (data.near && client instanceof Client) tracking = await track(client, data.near, config, logger);
  logins?.listen(whenUserChanges(logins, () => tracking?.userChanged()));
  const makeClient = await clientMaker(optionsOf("replicasOpen"), shutdown.closeMs);
  const replicated = new ReplicatedWrites({ makeClient, isWanted: () => gate.isWanted, problem: data.replicasProblem });
  queues = new LockQueues(client.redis, (channel) => mayListen(client.redis, channel), logger);
  return new Keeper(client, queues, ledger, logger, Date.now, redis.clusterNodes ? undefined : replicated);
}

/** The code is loaded only where there is a near cache. */
async function track(client: Client, near: KeeperNear, config: Config, logger: Logger): Promise<Tracking> {
  const [{ Tracking }, { NearMemory }] = await Promise.all([import("./tracking.js"), import("../near/near-memory.js")]);
  const { nearCache, redis } = config;
  const tracking = new Tracking({
    client,
    memory: new NearMemory(near),
    generation: near.generation,
    prefixes: nearCache.prefixes!.map((prefix) => redis.keyPrefix + prefix),
    maxStaleMs: nearCache.maxStaleMs,
    logger,
  });
  if (client.state === "connected") tracking.connected();
  return tracking;
}

function whenUserChanges(logins: Logins, act: () => void): () => void {
  let username = logins.latest?.username;
  return () => {
    if (logins.latest?.username === username) return;
    username = logins.latest?.username;
    act();
  };
}

/** With RESP2 a subscribed connection could not extend locks. A node of a Cluster may not be connected yet. */
async function mayListen(redis: Handle, channel: Buffer): Promise<boolean> {
  const node = nodeOf(redis, channel);
  await node?.connect();
  return node?.speaksResp3 ?? false;
}

async function close(keeper: Promise<Keeper>, closeMs: number): Promise<void> {
  await keeper.then((made) => made.close(closeMs)).catch(() => {}); // it was never connected
  process.exit();
}
