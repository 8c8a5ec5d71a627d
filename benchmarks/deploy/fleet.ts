import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import type { ChildInput } from "./child.js";

const CHILD = fileURLToPath(new URL("./child.js", import.meta.url));

export interface FleetTally {
  served: number;
  failed: number;
  /** Processes that ended otherwise than with code 0. */
  unclean: number;
}

/** One process of the fleet. */
export class Member {
  readonly ready: Promise<unknown>;
  readonly #child: ChildProcess;
  readonly #tally: FleetTally;

  constructor(input: ChildInput, tally: FleetTally) {
    this.#tally = tally;
    this.#child = spawn(process.execPath, [CHILD, JSON.stringify(input)], { stdio: ["ignore", "pipe", "inherit"] });
    const lines = createInterface({ input: this.#child.stdout! });
    this.ready = Promise.race([once(lines, "line"), this.#diedAtStart()]);
    lines.on("line", (line) => this.#hear(line));
  }

  /** As an orchestrator does. */
  async end(): Promise<void> {
    const closed = once(this.#child, "close"); // its last line has been read
    this.#child.kill("SIGTERM");
    const [code] = (await closed) as [number | null];
    if (code !== 0) this.#tally.unclean++;
  }

  #hear(line: string): void {
    if (line === "ready") return;
    const { served, failed } = JSON.parse(line) as { served: number; failed: number };
    this.#tally.served += served;
    this.#tally.failed += failed;
  }

  async #diedAtStart(): Promise<never> {
    const [code] = (await once(this.#child, "exit")) as [number | null];
    throw new Error(`a process of the fleet ended with ${code} before it was ready`);
  }
}
