/** A process of the fleet: serves its own requests until it gets SIGTERM, then prints how many failed. */
import { pool } from "../contenders/by-hand/by-hand.js";
import { openManager } from "../contenders/redthread/redthread.js";
import type * as Tasks from "../contenders/redthread/tasks.js";
import type { Request } from "../contenders/work.js";

export interface ChildInput {
  readonly port: number;
  readonly contender: "redthread" | "piscina + global ioredis";
  readonly threads: number;
}

interface Service {
  readonly request: (input: Request) => Promise<unknown>;
  /** Called when no new requests arrive. */
  readonly shutDown: () => Promise<unknown>;
}

const CALLERS = 8;
const REQUEST_MS = 100;

const { port, contender, threads } = JSON.parse(process.argv[2]!) as ChildInput;
const counts = { served: 0, failed: 0 };
let isOver = false;

function redthread(): Service {
  const manager = openManager<typeof Tasks>({
    redis: { port },
    threads: { count: threads, startTimeoutMs: 60_000 },
    shutdown: { handleSignals: true }, // the manager ends the process, with its own code
  });
  return { request: (input) => manager.run("request", input), shutDown: () => manager.shutdown() };
}

function byHand(): Service {
  const threaded = pool("by-hand/tasks.js", { port, threads }, { concurrentTasksPerWorker: 16, name: "request" });
  // The graceful way, by piscina's documentation.
  return { request: (input) => threaded.run(input), shutDown: () => threaded.close() };
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
  isOver = true; // the load balancer knows that this process ends
  await Promise.allSettled([service.shutDown(), ...callers]);
  process.stdout.write(`${JSON.stringify(counts)}\n`);
  if (contender !== "redthread") process.exit(0);
}

process.once("SIGTERM", () => void end());
await Promise.all(Array.from({ length: threads }, () => service.request({ key: "deploy", ms: 0 })));
const callers = Array.from({ length: CALLERS }, () => caller(service));
process.stdout.write("ready\n");
