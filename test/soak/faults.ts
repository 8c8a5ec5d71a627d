import type { Proxy } from "../support/proxy.js";
import type { RedisServer } from "../support/redis-server.js";

export interface Fault {
  readonly name: string;
  readonly provoke: () => Promise<unknown>;
}

export interface FaultParts {
  readonly server: RedisServer;
  readonly proxy: Proxy;
  /** Ends a thread in the middle of its tasks. */
  readonly endThread: () => Promise<unknown>;
  /** Uniform in [0, 1), seeded. */
  readonly random: () => number;
}

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** Faults of a service's Redis; each lasts for a random time and is then undone. */
export function faults({ server, proxy, endThread, random }: FaultParts): Fault[] {
  const aWhile = (fromMs: number, toMs: number): Promise<void> => pause(fromMs + random() * (toMs - fromMs));
  const clientKill = (...args: string[]): Promise<unknown> => server.admin.call("CLIENT", "KILL", ...args);
  return [
    {
      name: "server killed and restarted",
      provoke: async () => {
        await server.kill();
        await aWhile(0, 1_000);
        await server.start();
      },
    },
    {
      name: "server frozen",
      provoke: async () => {
        server.freeze();
        await aWhile(100, 1_500);
        server.thaw();
      },
    },
    {
      name: "one client killed",
      provoke: async () => {
        const clients = await server.clients();
        const victim = clients[Math.floor(random() * clients.length)];
        if (victim) await clientKill("ID", victim.id).catch(() => {}); // gone by itself meanwhile
      },
    },
    { name: "all clients killed", provoke: () => clientKill("TYPE", "normal", "SKIPME", "yes") },
    { name: "server paused", provoke: () => server.admin.client("PAUSE", Math.ceil(random() * 500), "ALL") },
    { name: "connections reset", provoke: async () => proxy.reset() },
    {
      name: "replies cut in the middle",
      provoke: async () => proxy.cutAfterReplyBytes(Math.ceil(random() * 200)),
    },
    {
      name: "black hole",
      provoke: async () => {
        proxy.blackhole(true);
        await aWhile(200, 3_000);
        proxy.blackhole(false);
      },
    },
    {
      name: "connects refused",
      provoke: async () => {
        proxy.down();
        proxy.reset();
        await aWhile(100, 1_000);
        await proxy.up();
      },
    },
    {
      name: "slow network",
      provoke: async () => {
        proxy.latencyMs = 50;
        await aWhile(200, 1_000);
        proxy.latencyMs = 0;
      },
    },
    { name: "thread ended", provoke: endThread },
  ];
}
