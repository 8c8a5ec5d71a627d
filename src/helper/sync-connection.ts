import { type AnyClient, clientMaker, connectOrClose, type OpenOptions } from "../clients/open-client.js";
import { isNamed } from "../commands/traits.js";
import type { RedisHandle } from "../commands/ioredis.js";
import type { SyncKind } from "../link/sync-area.js";

type Argument = string | Buffer | number;
type Command = readonly [name: string, ...args: Argument[]];
type Script = (args: Argument[]) => unknown;

/** The connection behind one synchronous client, and what its calls do on it. */
export class SyncConnection {
  readonly #options: OpenOptions;
  readonly #closeMs: number;
  readonly #makeClient: () => AnyClient;
  readonly #closing = new Set<Promise<void>>();
  #client: AnyClient;
  #calls = 0;

  /** Connected, or its error within the client's retry deadline, and then nothing is left open. */
  static async open(options: OpenOptions, closeMs: number): Promise<SyncConnection> {
    const makeClient = await clientMaker(options, closeMs);
    return new SyncConnection(options, closeMs, makeClient, await connectOrClose(makeClient(), closeMs));
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
      if (this.#client.state === "disconnected") void this.#client.connect().catch(() => {}); // it had been given up
      const { redis } = this.#client;
      if (kind === "pipeline") return await this.#pipeline(redis, request as Command[]);
      return await this.#call(redis, request as Command);
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

  // Bulk replies stay bytes here: the calling thread decodes those that it wants as text. Arguments go in one array, which
  // ioredis flattens: there may be more of them than a call takes.

  #call(redis: RedisHandle, [name, ...args]: Command): unknown {
    if (!this.#isScript(name)) return redis.callBuffer(spelled(name), args);
    return (redis as unknown as Record<string, Script>)[`${name}Buffer`]!(args);
  }

  async #pipeline(redis: RedisHandle, commands: readonly Command[]): Promise<unknown> {
    return redis.pipeline(this.#queued(commands)).exec();
  }

  /**
   * Each command as a pipeline's method with its arguments. MULTI and EXEC are plain commands here: behind the method
   * `multi`, the next `exec()` would only queue EXEC. In lower case, for by that name ioredis transforms what EXEC is answered with.
   */
  #queued(commands: readonly Command[]): unknown[][] {
    return commands.map((command) => {
      const [name] = command;
      const args = command.slice(1);
      if (this.#isScript(name)) return [`${name}Buffer`, args];
      const isPair = isNamed({ name }, "multi") || isNamed({ name }, "exec");
      return ["callBuffer", isPair ? name.toLowerCase() : spelled(name), args];
    });
  }

  /** `redis.scripts` are methods, not commands. */
  #isScript(name: string): boolean {
    return Object.hasOwn(this.#options.redis.scripts, name);
  }
}

/** By the name ioredis looks up how to transform arguments and replies, and finds what every object has: "toString". */
function spelled(name: string): string {
  return name in Object.prototype ? name.toUpperCase() : name;
}
