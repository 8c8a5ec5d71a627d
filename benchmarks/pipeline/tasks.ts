import { Redis } from "ioredis";
import { createClient } from "redis";
import { getRedis } from "redthread/worker";

export type PipelineClient = "redthread" | "ioredis" | "node-redis";

export interface PipelineInput {
  readonly client: PipelineClient;
  readonly kind: "pipeline" | "transaction";
  readonly gets: number;
  readonly calls: number;
  readonly port: number;
}

type Kinds = Readonly<Record<PipelineInput["kind"], (gets: number) => Promise<unknown>>>;

const KEY = "pipeline";
let made: Promise<Kinds> | undefined;

/** Microseconds of each call, and CPU microseconds of an average call. Each thread has one client. */
export async function measure({ client, kind, gets, calls, port }: PipelineInput) {
  made ??= OPENERS[client](port);
  const call = (await made)[kind];
  const samples: number[] = [];
  const before = process.cpuUsage();
  for (let i = 0; i < calls; i++) {
    const startedAt = performance.now();
    await call(gets);
    samples.push((performance.now() - startedAt) * 1_000);
  }
  const { user, system } = process.cpuUsage(before);
  return { samples, cpu: (user + system) / calls };
}

const OPENERS: Readonly<Record<PipelineClient, (port: number) => Promise<Kinds>>> = {
  redthread: async () => ofIoredis(await getRedis()),
  async ioredis(port) {
    const redis = new Redis(port, { lazyConnect: true });
    await redis.connect();
    return ofIoredis(redis);
  },
  async "node-redis"(port) {
    const redis = await createClient({ socket: { host: "127.0.0.1", port } }).connect();
    const filled = (gets: number): ReturnType<typeof redis.multi> => {
      const commands = redis.multi();
      for (let i = 0; i < gets; i++) commands.get(KEY);
      return commands;
    };
    return { pipeline: (gets) => filled(gets).execAsPipeline(), transaction: (gets) => filled(gets).exec() };
  },
};

function ofIoredis(redis: Redis): Kinds {
  return {
    pipeline: (gets) => run(redis.pipeline(), gets),
    transaction: (gets) => run(redis.multi(), gets),
  };
}

function run(commands: ReturnType<Redis["pipeline"]>, gets: number): Promise<unknown> {
  for (let i = 0; i < gets; i++) commands.get(KEY);
  return commands.exec();
}
