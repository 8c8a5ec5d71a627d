import { CredentialKeeper, type KeeperOptions, type Logins } from "../../connection/credentials.js";
import { toErrorData } from "../../link/error-serialization.js";
import type { LoginMessage } from "../../link/protocol.js";

/** A thread, or a thread's helper. */
export interface LoginListener {
  post(message: LoginMessage): unknown;
}

/** Calls the user's provider, on the main thread, and sends its logins to every living thread and helper. */
export class ThreadCredentials {
  readonly #keeper: CredentialKeeper;
  readonly #listeners = new Set<LoginListener>();

  constructor(options: Omit<KeeperOptions, "onFailure">) {
    this.#keeper = new CredentialKeeper({
      ...options,
      onFailure: (error) => this.#tell({ type: "loginFailed", error: toErrorData(error) }),
    });
    this.logins.listen(() => this.#tell({ type: "login", login: this.logins.latest! }));
  }

  /** For the clients of the main thread. */
  get logins(): Logins {
    return this.#keeper.logins;
  }

  attached(listener: LoginListener): void {
    this.#listeners.add(listener);
    const { latest, failure } = this.logins;
    if (latest) listener.post({ type: "login", login: latest });
    if (failure) listener.post({ type: "loginFailed", error: toErrorData(failure) });
  }

  /** A server rejected the login of this version. */
  wanted(rejectedVersion: number): void {
    this.#keeper.renew(rejectedVersion);
  }

  gone(listener: LoginListener): void {
    this.#listeners.delete(listener);
  }

  stop(): void {
    this.#keeper.stop();
  }

  #tell(message: LoginMessage): void {
    for (const listener of this.#listeners) listener.post(message);
  }
}
