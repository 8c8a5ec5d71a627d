import { createHash } from "node:crypto";
import { isReplyError, replyCode } from "../core/replies.js";
import { type Callback, Command } from "./ioredis.js";

type CommandOptions = NonNullable<ConstructorParameters<typeof Command>[2]>;

export interface ScriptDefinition {
  readonly lua: string;
  readonly numberOfKeys?: number;
  readonly readOnly?: boolean;
}

/** The client or pipeline that a script's function is called on. */
interface Caller {
  readonly options: { readonly keyPrefix?: string; readonly showFriendlyErrorStack?: boolean };
  readonly isPipeline?: true;
  sendCommand(command: InstanceType<typeof Command>): unknown;
}

/** By connection, the digests of the scripts that the server has run for it. */
const loadedOn = new WeakMap<object, Set<string>>();

/**
 * From now on scripts are sent in full only once on this connection. A script that the server has forgotten is sent again,
 * behind the commands that were written after it: this is for shared clients, whose users have no order among each other.
 */
export function rememberScripts(stream: object): void {
  loadedOn.set(stream, new Set());
}

/**
 * The function that runs a script. It differs from ioredis' own in when a script counts as loaded: ioredis counts it once
 * it was queued, and sends a script that the server does not know again, behind the commands that were written after it.
 * In a pipeline, and on a client with one user, a script is sent in full: it runs in its place even after SCRIPT FLUSH.
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
    if (this.isPipeline) return this.sendCommand(new Command("eval", all, options, callback));
    return this.sendCommand(new ScriptCommand(digest, all, options, callback, this));
  };
}

/** EVALSHA if the server has the script, otherwise EVAL. */
class ScriptCommand extends Command {
  readonly #lua: string;
  readonly #digest: string;
  #loaded: Set<string> | undefined;

  constructor(digest: string, args: string[], options: CommandOptions, callback: Callback | undefined, caller: Caller) {
    super("eval", args, options, callback);
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
