import { CredentialKeeper, type KeeperOptions } from "../common/credentials.js";
import { toErrorData } from "../common/envelope.js";
import type { Logins } from "../common/logins.js";
import type { ToThread } from "../common/protocol.js";
import type { Thread } from "./thread.js";

/** The users' provider runs here, on the main thread; what it gives goes to every thread that lives. */
export class ThreadCredentials {
  readonly #keeper: CredentialKeeper;
  readonly #threads = new Set<Thread>();

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

  greeted(thread: Thread): void {
    this.#threads.add(thread);
    const { latest, failure } = this.logins;
    if (latest) thread.post({ type: "login", login: latest });
    if (failure) thread.post({ type: "loginFailed", error: toErrorData(failure) });
  }

  wanted(refused: number): void {
    this.#keeper.renew(refused);
  }

  gone(thread: Thread): void {
    this.#threads.delete(thread);
  }

  stop(): void {
    this.#keeper.stop();
  }

  #tell(message: ToThread): void {
    for (const thread of this.#threads) thread.post(message);
  }
}
