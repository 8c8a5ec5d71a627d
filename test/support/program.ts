import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import type { TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { eventually } from "./gate.js";
import { fixture } from "./manage.js";

export type Said = Readonly<Record<string, unknown>>;

export interface Exit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stderr: string;
  /** Counted from the first signal sent to it, or from its start. */
  readonly ms: number;
}

/**
 * A program in its own process, killed after the test. A name means a file of test/fixtures, an array its arguments. It
 * writes lines of JSON to stdout.
 */
export class Program {
  readonly said: Said[] = [];
  readonly exit: Promise<Exit>;
  readonly #child: ChildProcess;
  #stdout = "";
  #stderr = "";
  #since = performance.now();
  #isSignalled = false;
  #isOver = false;

  constructor(
    t: TestContext,
    program: string | URL,
    argument: unknown,
    { env = process.env, execArgv = [] as string[] } = {},
  ) {
    const file = fileURLToPath(typeof program === "string" ? fixture(program) : program);
    const args = Array.isArray(argument) ? (argument as string[]) : [JSON.stringify(argument)];
    this.#child = spawn(process.execPath, [...execArgv, file, ...args], { stdio: ["ignore", "pipe", "pipe"], env });
    this.#child.stdout!.setEncoding("utf8").on("data", (text: string) => this.#hear(text));
    this.#child.stderr!.setEncoding("utf8").on("data", (text: string) => (this.#stderr += text));
    this.exit = this.#exit();
    t.after(async () => {
      this.#child.kill("SIGKILL");
      await this.exit;
    });
  }

  signal(name: NodeJS.Signals): void {
    if (!this.#isSignalled) this.#since = performance.now();
    this.#isSignalled = true;
    this.#child.kill(name);
  }

  /** Its stderr is not read until `readOn`, or its end. */
  stall(): void {
    this.#child.stderr!.pause();
  }

  readOn(): void {
    this.#child.stderr!.resume();
  }

  /** Waits for a line with this key, and returns the line. */
  async hears(key: string, deadlineMs = 15_000): Promise<Said> {
    await eventually(() => this.#isOver || this.all(key).length > 0, deadlineMs, `the program says "${key}"`);
    const [line] = this.all(key);
    if (!line) throw new Error(`the program ended without saying "${key}":\n${this.#stderr}`);
    return line;
  }

  /** Every line with this key. */
  all(key: string): Said[] {
    return this.said.filter((line) => key in line);
  }

  /** For the message of a failed assertion. */
  get transcript(): string {
    return [...this.said.map((line) => JSON.stringify(line)), this.#stderr].join("\n");
  }

  #hear(text: string): void {
    const lines = (this.#stdout + text).split("\n");
    this.#stdout = lines.pop()!;
    this.said.push(...lines.map((line) => JSON.parse(line) as Said));
  }

  async #exit(): Promise<Exit> {
    this.#child.once("exit", () => this.readOn());
    // At "exit" its last line may not have been read yet.
    const [exitCode, signal] = (await once(this.#child, "close")) as [number | null, NodeJS.Signals | null];
    this.#isOver = true;
    return { code: exitCode, signal, stderr: this.#stderr, ms: performance.now() - this.#since };
  }
}
