import type { NearWorld } from "./near-run.js";
import { nowNs } from "./near-writer.js";
import type { RedisServer } from "./redis-server.js";

type Fault = (ms: number) => void | Promise<void>;

/** After so many faults there is a while without, so that values are served from memory again. */
const REST_AFTER = 4;
const REST_MS = 1_500;

/** What can happen to a process with a near cache and to its server. Each takes at most about `ms`. */
export class NearFaults {
  readonly counts: Record<string, number> = {};
  readonly #world: NearWorld;
  readonly #faults: Readonly<Record<string, Fault>>;

  constructor(world: NearWorld) {
    this.#world = world;
    const { order, proxy } = world;
    this.#faults = {
      flush: () => this.#writer.flush(),
      remove: () => this.#writer.remove(this.#below(world.keys.length)),
      expire: (ms) => this.#writer.expire(this.#below(world.keys.length), ms),
      killKeeper: () => this.#kill((name) => name.includes("keeper")),
      killOther: () => this.#kill((name) => !name.includes("keeper")),
      strandKeeper: async (ms) => {
        await this.#strandKeeper();
        await pause(ms);
      },
      blackHole: async (ms) => {
        proxy.blackhole(true);
        await pause(ms);
        proxy.blackhole(false);
      },
      strandAll: () => proxy.strand(),
      reset: () => proxy.reset(),
      cut: () => proxy.cutAfterReplyBytes(1 + this.#below(50_000)),
      move: () => this.#move(),
      freeze: async (ms) => {
        const server = this.#server;
        server.freeze();
        await pause(ms);
        server.thaw();
      },
      busy: (ms) => this.#busy(ms),
      blockMain: (ms) => order({ do: "blockMain", ms }),
      blockKeeper: (ms) => order({ do: "blockKeeper", ms }),
      endThread: () => order({ do: "endThread" }),
      endTask: () => order({ do: "endTask" }),
    };
  }

  async disturbUntil(endAt: number): Promise<void> {
    const names = Object.keys(this.#faults);
    for (let i = 1; performance.now() < endAt; i++) {
      await pause(i % REST_AFTER === 0 ? REST_MS : 30 + this.#below(500));
      const name = names[this.#below(names.length)]!;
      this.counts[name] = (this.counts[name] ?? 0) + 1;
      const acting = this.#faults[name]!(20 + this.#below(400));
      // Some meet the next ones.
      if (this.#below(3) > 0) await acting;
      else void Promise.resolve(acting).catch(() => {});
    }
    this.#world.proxy.blackhole(false);
    for (const server of this.#world.servers) server.thaw();
  }

  get #server(): RedisServer {
    return this.#world.servers[this.#world.moves.at(-1)!.server]!;
  }

  get #writer(): NearWorld["writers"][number] {
    return this.#world.writers[this.#world.moves.at(-1)!.server]!;
  }

  #below(limit: number): number {
    return Math.floor(this.#world.random() * limit);
  }

  async #kill(isVictim: (name: string) => boolean): Promise<void> {
    const server = this.#server;
    const all = await server.clients().catch(() => []); // it is busy
    const victims = all.filter(({ name }) => name !== "" && isVictim(name));
    const victim = victims[this.#below(victims.length)];
    if (victim) await server.admin.call("CLIENT", "KILL", "ID", victim.id).catch(() => {});
  }

  async #strandKeeper(): Promise<void> {
    for (const { name, addr } of await this.#server.clients().catch(() => []))
      if (name.includes("keeper")) this.#world.proxy.strandOne(Number(addr.split(":").at(-1)));
  }

  /** All connections are led to the other server. */
  #move(): void {
    const { proxy, servers, moves } = this.#world;
    const next = 1 - moves.at(-1)!.server;
    proxy.targetPort = servers[next]!.port;
    proxy.reset();
    moves.push({ server: next, at: nowNs() });
  }

  /** The server computes behind a write of the same cycle of its loop, perhaps for so long that it answers others meanwhile. */
  async #busy(ms: number): Promise<void> {
    const writer = this.#writer;
    writer.redis.stream.cork();
    const written = writer.write(this.#below(5));
    const script = `local from = redis.call("time") repeat local t = redis.call("time")
      until (t[1] - from[1]) * 1000 + (t[2] - from[2]) / 1000 > ${ms}`;
    const computed = writer.redis.call("eval", script, "0");
    writer.redis.stream.uncork();
    await Promise.all([written, computed]);
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
