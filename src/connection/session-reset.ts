import type { EventEmitter } from "node:events";
import { within } from "../core/waiting.js";
import { type ClientContext, connectFailed } from "./client-context.js";

/** Makes a connection that its holder returns as good as new for the next holder. */
export class SessionReset {
  readonly #client: ClientContext;
  readonly #listeners: OwnListeners;
  /** UNWATCHs without a reply so far. */
  #unwatching = 0;

  /** All present listeners of the handle are the library's own. */
  constructor(client: ClientContext) {
    this.#client = client;
    this.#listeners = new OwnListeners(client.redis);
  }

  /** No command of the holder is pending, and the server can undo what the session holds. */
  get isPossible(): boolean {
    const { commandQueue, redis } = this.#client;
    return !commandQueue.session.tainted && redis.commandQueue.length <= this.#unwatching;
  }

  /** Removes the holder's listeners and resets the session, at once or in one round trip. `isAwaited`: the next holder waits already. */
  begin(isAwaited: boolean): true | Promise<true> {
    const { session } = this.#client.commandQueue;
    this.#listeners.removeForeign();
    session.handedBack();
    if (session.clean) return true;
    if (!session.onlyWatches) return this.#repair();
    this.#unwatch(isAwaited);
    return true;
  }

  async #repair(): Promise<true> {
    const { commandQueue, redis, options } = this.#client;
    const { session } = commandQueue;
    const repairs = session.repairs.map(([name, ...args]) => redis.own(name!, ...args));
    await within(Promise.all(repairs), options.redis.commandTimeoutMs, () => connectFailed(this.#client));
    session.repaired();
    return true;
  }

  /** Nobody waits for the reply: the next holder's commands follow on the same socket. */
  #unwatch(isAwaited: boolean): void {
    const { commandQueue, redis } = this.#client;
    const { session } = commandQueue;
    session.repaired();
    this.#unwatching++;
    const answered = (error?: Error): void => {
      this.#unwatching--;
      if (error?.name === "ReplyError") session.taint(); // a lost connection has forgotten its WATCH
    };
    redis.own("unwatch").then(() => answered(), answered);
    // With a next holder it leaves together with that holder's first command: sending it now would wake an idle server twice.
    if (!isAwaited) commandQueue.flush();
  }
}

/** Tells the library's own listeners on a handle from its holder's. */
export class OwnListeners {
  readonly #emitter: EventEmitter;
  readonly #own: ReadonlyMap<string | symbol, ReadonlySet<unknown>>;

  /** All present listeners are the library's own. */
  constructor(emitter: EventEmitter) {
    this.#emitter = emitter;
    const events = emitter.eventNames();
    this.#own = new Map(events.map((event) => [event, new Set<unknown>(emitter.rawListeners(event))]));
  }

  removeForeign(): void {
    for (const event of this.#emitter.eventNames()) {
      const own = this.#own.get(event);
      for (const listener of this.#emitter.rawListeners(event)) {
        if (!own?.has(listener)) this.#emitter.removeListener(event, listener as () => void);
      }
    }
  }
}
