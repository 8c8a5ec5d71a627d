import type { Handle } from "../commands/handle.js";
import type { Session } from "../commands/session.js";
import { within } from "../core/waiting.js";
import { OwnListeners } from "./own-listeners.js";

export interface SessionResetOptions {
  readonly session: Session;
  readonly repairMs: number;
  /** A repair took longer. */
  readonly onTimeout: () => Error;
  /** What was written leaves at once. */
  readonly flush: () => void;
}

/** Makes a connection that a holder gives back as good as new for the next one. */
export class SessionReset {
  readonly #handle: Handle;
  readonly #options: SessionResetOptions;
  readonly #listeners: OwnListeners;
  /** UNWATCHs under way. */
  #unwatching = 0;

  /** All that listen to the handle now are the library's own. */
  constructor(handle: Handle, options: SessionResetOptions) {
    this.#handle = handle;
    this.#options = options;
    this.#listeners = new OwnListeners(handle);
  }

  /** Nothing is under way for the holder, and what he did can be undone. */
  get isPossible(): boolean {
    return !this.#options.session.tainted && this.#handle.commandQueue.length <= this.#unwatching;
  }

  /** In one round trip, or at once; takes off the holder's listeners. With `isAwaited` there is a next holder already. */
  begin(isAwaited: boolean): true | Promise<true> {
    const { session } = this.#options;
    this.#listeners.removeForeign();
    session.handedBack();
    if (session.clean) return true;
    if (!session.onlyWatches) return this.#repair();
    this.#unwatch(isAwaited);
    return true;
  }

  async #repair(): Promise<true> {
    const { session, repairMs, onTimeout } = this.#options;
    const repairs = session.repairs.map(([name, ...args]) => this.#handle.own(name!, ...args));
    await within(Promise.all(repairs), repairMs, onTimeout);
    session.repaired();
    return true;
  }

  /** Nobody waits for it: the next holder's commands come after it on the same socket. */
  #unwatch(isAwaited: boolean): void {
    const { session, flush } = this.#options;
    session.repaired();
    this.#unwatching++;
    const answered = (error?: Error): void => {
      this.#unwatching--;
      if (error?.name === "ReplyError") session.taint(); // a lost connection has forgotten its WATCH
    };
    this.#handle.own("unwatch").then(() => answered(), answered);
    // Else it leaves with the next holder's first command. A server with nothing to do meanwhile has to be woken for that one.
    if (!isAwaited) flush();
  }
}
