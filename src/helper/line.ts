import type { RedisHandle } from "../common/ioredis.js";
import { type AnyClient, clientMaker, connectOrClose, type OpenOptions } from "../common/open-client.js";
import type { SyncKind } from "../common/sync-area.js";

type Argument = string | Buffer | number;
type Script = (...args: Argument[]) => unknown;

/** The connection behind one synchronous client, and what its calls do on it. */
export class Line {
  readonly #options: OpenOptions;
  readonly #closeMs: number;
  readonly #makeClient: () => AnyClient;
  readonly #closing = new Set<Promise<void>>();
  #client: AnyClient;
  #calls = 0;

  /** Connected, or its error within the client's retry deadline, and then nothing is left open. */
  static async open(options: OpenOptions, closeMs: number): Promise<Line> {
    const makeClient = await clientMaker(options, closeMs);
    return new Line(options, closeMs, makeClient, await connectOrClose(makeClient(), closeMs));
  }

  private constructor(options: OpenOptions, closeMs: number, makeClient: () => AnyClient, client: AnyClient) {
    this.#options = options;
    this.#closeMs = closeMs;
    this.#makeClient = makeClient;
    this.#client = client;
  }

  /** What ioredis gives for the same call. */
  async run(kind: Exclude<SyncKind, "open" | "close">, request: unknown): Promise<unknown> {
    this.#calls++;
    try {
      if (this.#client.state === "disconnected") await this.#client.connect(); // it had been given up
      const { redis } = this.#client;
      if (kind === "pipeline") return await this.#pipeline(redis, request as [string, ...Argument[]][]);
      return await this.#call(redis, request as Argument[]);
    } finally {
      this.#calls--;
      if (this.#options.gate.isWanted) this.giveUpIdle(); // who asked during the call asks no second time
    }
  }

  /** Somebody waits for a connection of the budget: one that idles here makes room, and the next call opens another. */
  giveUpIdle(): void {
    if (this.#calls > 0 || this.#client.state !== "connected") return;
    const idle = this.#client;
    this.#client = this.#makeClient();
    const closed = idle.close(this.#closeMs).finally(() => this.#closing.delete(closed));
    this.#closing.add(closed);
  }

  /** Never rejects. */
  async close(ms: number): Promise<void> {
    await Promise.all([this.#client.close(ms), ...this.#closing]);
  }

  // Bulk replies stay bytes here: the calling thread decodes those that it wants as text.

  #call(redis: RedisHandle, [name, ...args]: Argument[]): unknown {
    const command = String(name);
    if (!this.#isScript(command)) return redis.callBuffer(command, ...args);
    return (redis as unknown as Record<string, Script>)[`${command}Buffer`]!(...args);
  }

  #pipeline(redis: RedisHandle, commands: readonly [name: string, ...Argument[]][]): Promise<unknown> {
    const queued = commands.map((command) => {
      const method = this.#pipelineMethod(command[0]);
      return method === undefined ? ["callBuffer", ...command] : [method, ...command.slice(1)];
    });
    return redis.pipeline(queued).exec();
  }

  #pipelineMethod(name: string): string | undefined {
    if (this.#isScript(name)) return `${name}Buffer`;
    if (name.length > LONGEST_TRANSACTION) return undefined;
    const method = name.toLowerCase();
    // ioredis counts a pipeline's transactions in these.
    return method === "multi" || method === "exec" ? method : undefined;
  }

  /** `redis.scripts` are methods, not commands. */
  #isScript(name: string): boolean {
    return Object.hasOwn(this.#options.redis.scripts, name);
  }
}

const LONGEST_TRANSACTION = "multi".length;
