import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import type { Redis } from "ioredis";
import type { ChildInput } from "./child.js";

const CHILD = fileURLToPath(new URL("./child.js", import.meta.url));
const SAMPLE_MS = 100;

export interface Tally {
  served: number;
  failed: number;
  /** Processes whose exit code was not 0. */
  unclean: number;
}

/** One process of the fleet. */
export class Member {
  readonly #child: ChildProcess;
  readonly #tally: Tally;

  private constructor(child: ChildProcess, tally: Tally) {
    this.#child = child;
    this.#tally = tally;
  }

  /** Resolves when it serves. Its requests are added to `tally` when it ends. */
  static async start(input: ChildInput, tally: Tally): Promise<Member> {
    const child = spawn(process.execPath, [CHILD, JSON.stringify(input)], { stdio: ["ignore", "pipe", "inherit"] });
    const lines = createInterface({ input: child.stdout });
    const exited = once(child, "exit").then(([code]: unknown[]) => {
      throw new Error(`a process of the fleet ended with ${String(code)} before it was ready`);
    });
    await Promise.race([once(lines, "line"), exited]);
    lines.on("line", (line) => {
      const { served, failed } = JSON.parse(line) as { served: number; failed: number };
      tally.served += served;
      tally.failed += failed;
    });
    return new Member(child, tally);
  }

  /** Sends SIGTERM, as an orchestrator does. */
  async end(): Promise<void> {
    const closed = once(this.#child, "close"); // after its last line was read
    this.#child.kill("SIGTERM");
    const [code] = (await closed) as [number | null];
    if (code !== 0) this.#tally.unclean++;
  }
}

/** Reads the server's own counters. */
export class ConnectRate {
  most = 0;
  mostPerSecond = 0;
  readonly #admin: Redis;
  readonly #timer: NodeJS.Timeout;
  #first: number | undefined;
  #last = 0;
  #lastAt = 0;

  constructor(admin: Redis) {
    this.#admin = admin;
    this.#timer = setInterval(() => void this.#sample(), SAMPLE_MS);
  }

  /** The number of connects since the start. */
  async stop(): Promise<number> {
    clearInterval(this.#timer);
    await this.#sample();
    return this.#last - this.#first!;
  }

  async #sample(): Promise<void> {
    const info = await this.#admin.info();
    const received = fieldOf(info, "total_connections_received");
    const now = performance.now();
    this.most = Math.max(this.most, fieldOf(info, "connected_clients") - 1); // without the admin's
    if (this.#first === undefined) this.#first = received;
    else this.mostPerSecond = Math.max(this.mostPerSecond, (1_000 * (received - this.#last)) / (now - this.#lastAt));
    this.#last = received;
    this.#lastAt = now;
  }
}

function fieldOf(info: string, name: string): number {
  return Number(new RegExp(`^${name}:(\\d+)`, "m").exec(info)?.[1]);
}
