import { appendFile, copyFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { eventually } from "./gate.js";
import { launch, type ListedClient, type Mode, type RedisServer, startRedis, untilInSync } from "./redis-server.js";

export const NAME = "m1";

export interface SentinelOptions {
  /** More lines of its configuration file. */
  readonly lines?: readonly string[];
  readonly quorum?: number;
  /** The configuration epoch that it begins with, as after so many failovers. */
  readonly epoch?: number;
  /** TLS instead of plain TCP. */
  readonly listen?: (port: number) => readonly string[];
  readonly observer?: Mode["observer"];
  /**
   * It finds no server down before `watch`: on a busy machine there must be no failover while the servers are set up.
   */
  readonly isBlind?: boolean;
}

const DOWN_AFTER = "down-after-milliseconds";
const DOWN_AFTER_MS = 1_000;

/** One sentinel that watches this master, whether the master is there or not. */
export function startSentinel(master: Pick<RedisServer, "port">, options: SentinelOptions = {}): Promise<RedisServer> {
  const { lines = [], quorum = 1, epoch = 0, listen = (port) => [`port ${port}`], observer = {} } = options;
  return launch({
    observer,
    ready: "+monitor master",
    async args(port, folder) {
      const file = join(folder, "sentinel.conf");
      const monitor = [
        `sentinel monitor ${NAME} 127.0.0.1 ${master.port} ${quorum}`,
        `sentinel ${DOWN_AFTER} ${NAME} ${DOWN_AFTER_MS}`,
        `sentinel failover-timeout ${NAME} 3000`,
        `sentinel parallel-syncs ${NAME} 1`,
        `sentinel config-epoch ${NAME} ${epoch}`,
        `sentinel current-epoch ${epoch}`,
      ];
      await writeFile(file, [...listen(port), "bind 127.0.0.1", `dir ${folder}`, ...lines, ...monitor, ""].join("\n"));
      await copyFile(file, `${file}.old`);
      if (options.isBlind) await appendFile(file, `sentinel ${DOWN_AFTER} ${NAME} 3600000\n`);
      return [file, "--sentinel"];
    },
  });
}

/** A new process, without the knowledge of the first one. */
export async function restartStale(sentinel: RedisServer): Promise<void> {
  const file = join(sentinel.folder, "sentinel.conf");
  await sentinel.kill();
  await copyFile(`${file}.old`, file);
  await sentinel.start();
}

/** Waits until a sentinel has been asked so many times more; each time has its own connection. */
export async function untilAsked(sentinel: RedisServer, times: number): Promise<void> {
  const first = await connectionsTo(sentinel);
  await eventually(async () => (await connectionsTo(sentinel)) >= first + times, 30_000, "the sentinel is asked again");
}

/** The number of connections so far. */
async function connectionsTo({ admin }: RedisServer): Promise<number> {
  return Number(/total_connections_received:(\d+)/.exec(await admin.info("stats"))![1]);
}

export async function nobodyAsks(sentinels: readonly RedisServer[]): Promise<void> {
  const ask = async (): Promise<boolean> =>
    (await Promise.all(sentinels.map(strangers))).every(({ length }) => length === 0);
  await eventually(ask, 5_000, "no connection to a sentinel is left");
}

/** A master and its replica, watched by three sentinels. */
export class Watched implements AsyncDisposable {
  readonly master: RedisServer;
  readonly replica: RedisServer;
  readonly sentinels: readonly RedisServer[];

  /** Resolves when all know each other and a failover would find a replica in sync. */
  static async start({
    masterArgs = [],
    bothArgs = [],
  }: { masterArgs?: readonly string[]; bothArgs?: readonly string[] } = {}): Promise<Watched> {
    const started: RedisServer[] = [];
    const keep = (server: RedisServer): RedisServer => (started.push(server), server);
    try {
      const args = ["--repl-diskless-sync-delay", "0", ...bothArgs];
      const master = keep(await startRedis({ args: [...args, ...masterArgs] }));
      const replica = keep(await startRedis({ args: [...args, "--replicaof", "127.0.0.1", String(master.port)] }));
      const starting = Array.from({ length: 3 }, () => startSentinel(master, { quorum: 2, isBlind: true }).then(keep));
      const watched = new Watched(master, replica, await Promise.all(starting));
      await eventually(() => watched.#isComplete(), 30_000, "master, replica and sentinels know each other");
      await Promise.all(
        watched.sentinels.map(({ admin }) => admin.call("SENTINEL", "SET", NAME, DOWN_AFTER, DOWN_AFTER_MS)),
      );
      return watched;
    } catch (error) {
      await Promise.all(started.map((server) => server.stop()));
      throw error;
    }
  }

  private constructor(master: RedisServer, replica: RedisServer, sentinels: readonly RedisServer[]) {
    this.master = master;
    this.replica = replica;
    this.sentinels = sentinels;
  }

  get redis(): { port: undefined; sentinelName: string; sentinels: { host: string; port: number }[] } {
    const sentinels = this.sentinels.map(({ port }) => ({ host: "127.0.0.1", port }));
    return { port: undefined, sentinelName: NAME, sentinels };
  }

  /** Waits until every sentinel says that the replica is the master now. */
  async failedOver(): Promise<void> {
    const isNamed = async (sentinel: RedisServer): Promise<boolean> =>
      (await masterPort(sentinel)) === this.replica.port;
    const check = async (): Promise<boolean> => (await Promise.all(this.sentinels.map(isNamed))).every(Boolean);
    await eventually(check, 30_000, "the replica was made the master");
  }

  /** Makes the old master a replica of the new one, which the sentinels would do only after 10 to 20 s. */
  async follow(): Promise<void> {
    await this.master.admin.call("REPLICAOF", "127.0.0.1", String(this.replica.port));
    await untilInSync(this.master);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // First the servers that would start a failover.
    await Promise.all(this.sentinels.map((sentinel) => sentinel.stop()));
    await Promise.all([this.master.stop(), this.replica.stop()]);
  }

  async #isComplete(): Promise<boolean> {
    const seen = await Promise.all(this.sentinels.map((sentinel) => sentinel.admin.call("SENTINEL", "MASTER", NAME)));
    const knowsAll = seen.map(pairs).every((of) => of["num-slaves"] === "1" && of["num-other-sentinels"] === "2");
    return knowsAll && /master_link_status:up/.test(await this.replica.admin.info("replication"));
  }
}

/** Clients of a sentinel other than sentinels, which have a name. */
export async function strangers(sentinel: RedisServer): Promise<ListedClient[]> {
  return (await sentinel.clients()).filter(({ name }) => name === "");
}

async function masterPort(sentinel: RedisServer): Promise<number> {
  const address = await sentinel.admin.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME);
  return Number((address as string[] | null)?.[1]);
}

function pairs(reply: unknown): Record<string, string> {
  if (!Array.isArray(reply)) return reply as Record<string, string>;
  const list = reply as string[];
  return Object.fromEntries(list.flatMap((name, i) => (i % 2 === 0 ? [[name, list[i + 1]!]] : [])));
}
