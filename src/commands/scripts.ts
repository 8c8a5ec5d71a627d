import { createHash } from "node:crypto";
import { isReplyError, replyCode } from "../core/replies.js";
import type { Callback } from "./callbacks.js";
import { Command } from "./ioredis.js";

type CommandOptions = NonNullable<ConstructorParameters<typeof Command>[2]>;
type IoredisCallback = ConstructorParameters<typeof Command>[3];

export interface ScriptDefinition {
  readonly lua: string;
  readonly numberOfKeys?: number;
  readonly readOnly?: boolean;
}

/** A client, or a pipeline: what a script's function is called on. */
interface Caller {
  readonly options: { readonly keyPrefix?: string; readonly showFriendlyErrorStack?: boolean };
  readonly isPipeline?: true;
  sendCommand(command: InstanceType<typeof Command>): unknown;
}

/** By their digests: the server has run them for this very connection. */
const loadedOn = new WeakMap<object, Set<string>>();

/**
 * On this connection scripts are sent in full only once. Where the server has forgotten one it is sent again, behind what
 * was written after it: so for clients of many, who have no order among each other.
 */
export function rememberScripts(stream: object): void {
  loadedOn.set(stream, new Set());
}

/**
 * The function that runs a script, as ioredis makes it, but for what is taken for loaded: ioredis counts a script as loaded
 * once it was queued, and sends one that the server does not know again behind what was written after it. In a pipeline, and
 * on a client of one's own, it is sent in full, and so runs in its place even where somebody has flushed all scripts.
 */
export function scriptFunction(
  { lua, numberOfKeys, readOnly = false }: ScriptDefinition,
  replyEncoding: BufferEncoding | null,
): (...args: unknown[]) => unknown {
  const digest = createHash("sha1").update(lua).digest("hex");
  return function (this: Caller, ...args: unknown[]): unknown {
    const callback = typeof args.at(-1) === "function" ? (args.pop() as Callback) : undefined;
    const { keyPrefix = "", showFriendlyErrorStack } = this.options;
    if (typeof numberOfKeys === "number") args.unshift(numberOfKeys);
    const all = [lua, ...args] as string[];
    const errorStack = showFriendlyErrorStack ? new Error() : undefined;
    const options = { replyEncoding, readOnly, keyPrefix, ...(errorStack && { errorStack }) } as CommandOptions;
    if (this.isPipeline) return this.sendCommand(new Command("eval", all, options, callback as IoredisCallback));
    return this.sendCommand(new ScriptCommand(digest, all, options, callback, this));
  };
}

/** By its digest where the server has it, else in full. */
class ScriptCommand extends Command {
  readonly #lua: string;
  readonly #digest: string;
  #loaded: Set<string> | undefined;

  constructor(digest: string, args: string[], options: CommandOptions, callback: Callback | undefined, caller: Caller) {
    super("eval", args, options, callback as IoredisCallback);
    this.#lua = args[0]!;
    this.#digest = digest;
    const { resolve, reject } = this;
    this.resolve = (reply: unknown) => {
      if (this.name === "eval") this.#loaded?.add(digest);
      return resolve(reply);
    };
    this.reject = (error: Error) => {
      const isForgotten = this.name === "evalsha" && isReplyError(error) && replyCode(error) === "NOSCRIPT";
      if (!isForgotten || this.isSettled) return reject(error);
      this.#loaded?.delete(digest);
      caller.sendCommand(this);
    };
  }

  override toWritable(socket: object): string | Buffer {
    this.#loaded = loadedOn.get(socket);
    const isLoaded = this.#loaded?.has(this.#digest) ?? false;
    this.name = isLoaded ? "evalsha" : "eval";
    this.args[0] = isLoaded ? this.#digest : this.#lua;
    return super.toWritable(socket);
  }
}
