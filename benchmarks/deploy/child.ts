/** A process of the fleet: serves requests of its own until it is told to end, then says how many failed. */
import { fileURLToPath } from "node:url";
import { Piscina } from "piscina";
import { ConnectionManager } from "redthread";
import { silent } from "../../test/support/silent.js";
import type { Request } from "../contenders/request.js";
import type * as Tasks from "../contenders/serve-tasks.js";

export interface ChildInput {
  readonly port: number;
  readonly contender: "redthread" | "piscina + global ioredis";
  readonly threads: number;
}

interface Service {
  readonly request: (input: Request) => Promise<unknown>;
  /** Once nothing new comes in. */
  readonly shutDown: () => Promise<unknown>;
}

const CALLERS = 8;
const REQUEST_MS = 100;

const { port, contender, threads } = JSON.parse(process.argv[2]!) as ChildInput;
const counts = { served: 0, failed: 0 };
let isOver = false;

function redthread(): Service {
  const manager = new ConnectionManager<typeof Tasks>({
    tasks: new URL("../contenders/serve-tasks.js", import.meta.url),
    env: {},
    logger: silent,
    redis: { port },
    threads: { count: threads, startTimeoutMs: 60_000 },
    shutdown: { handleSignals: true }, // it exits, with its own code
  });
  return { request: (input) => manager.run("request", input), shutDown: () => manager.shutdown() };
}

function byHand(): Service {
  const pool = new Piscina({
    filename: fileURLToPath(new URL("../contenders/serve-global.js", import.meta.url)),
    minThreads: threads,
    maxThreads: threads,
    concurrentTasksPerWorker: 16,
    workerData: { port },
  });
  // The graceful way out, by piscina's documentation.
  return { request: (input) => pool.run(input), shutDown: () => pool.close() };
}

async function caller(service: Service): Promise<void> {
  while (!isOver) {
    try {
      await service.request({ key: "deploy", ms: REQUEST_MS });
      counts.served++;
    } catch {
      counts.failed++;
    }
  }
}

const service = contender === "redthread" ? redthread() : byHand();
async function end(): Promise<void> {
  isOver = true; // the load balancer has heard
  await Promise.allSettled([service.shutDown(), ...callers]);
  process.stdout.write(`${JSON.stringify(counts)}\n`);
  if (contender !== "redthread") process.exit(0);
}

process.once("SIGTERM", () => void end());
await Promise.all(Array.from({ length: threads }, () => service.request({ key: "deploy", ms: 0 })));
const callers = Array.from({ length: CALLERS }, () => caller(service));
process.stdout.write("ready\n");
