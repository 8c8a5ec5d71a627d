import { type AnyClient, clientMaker, connectOrClose, type OpenOptions } from "../clients/open-client.js";
import { isNamed } from "../commands/traits.js";
import type { RedisHandle } from "../commands/ioredis.js";
import type { SyncKind } from "../link/sync-area.js";

type Argument = string | Buffer | number;
type Command = readonly [name: string, ...args: Argument[]];
type Script = (args: Argument[]) => unknown;

/** The connection of one synchronous client, and the commands that its calls send on it. */
export class SyncConnection {
  readonly #options: OpenOptions;
  readonly #closeMs: number;
  readonly #makeClient: () => AnyClient;
  readonly #closing = new Set<Promise<void>>();
  #client: AnyClient;
  #calls = 0;

  /** Resolves when it is connected. Rejects within the client's retry deadline, and leaves nothing open. */
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

  get redis(): RedisHandle {
    return this.#client.redis;
  }

  /** Resolves to what ioredis gives for the same call. */
  async run(kind: Exclude<SyncKind, "open" | "close">, request: unknown): Promise<unknown> {
    this.#calls++;
    try {
      if (this.#client.state === "disconnected") void this.#client.connect().catch(() => {}); // giveUpIdle() left a new one
      const { redis } = this.#client;
      if (kind === "pipeline") return await this.#pipeline(redis, request as Command[]);
      return await this.#call(redis, request as Command);
    } finally {
      this.#calls--;
      if (this.#options.gate.isWanted) this.giveUpIdle(); // a waiter that asked during the call does not ask again
    }
  }

  /** Closes the connection if it idles, because a waiter needs its permit. The next call opens another one. */
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

  // Bulk replies stay bytes here, and the calling thread decodes them where it wants text. Arguments go in one array, which
  // ioredis flattens, because a call of JavaScript takes only so many.

  #call(redis: RedisHandle, [name, ...args]: Command): unknown {
    if (!this.#isScript(name)) return redis.callBuffer(spelled(name), args);
    return (redis as unknown as Record<string, Script>)[`${name}Buffer`]!(args);
  }

  async #pipeline(redis: RedisHandle, commands: readonly Command[]): Promise<unknown> {
    return redis.pipeline(this.#queued(commands)).exec();
  }

  /**
   * Each command as a pipeline's method with its arguments. MULTI and EXEC are plain commands here, because after the method
   * `multi` the next `exec()` would only queue EXEC. They are in lower case, so that ioredis finds how to transform EXEC's reply.
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

/** ioredis looks up by name how to transform a reply, and would find what every object has, as "toString". */
function spelled(name: string): string {
  return name in Object.prototype ? name.toUpperCase() : name;
}
