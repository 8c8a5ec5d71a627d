import type { CommandQueue } from "../commands/command-queue.js";
import type { Handle } from "../commands/handle.js";
import type { Logger } from "../core/log.js";
import { isReplyError, replyCode } from "../core/replies.js";
import type { Dialer } from "./dialer.js";
import type { Logins } from "./logins.js";

export interface LoginRenewalOptions {
  readonly dialer: Dialer;
  readonly commandQueue: CommandQueue;
  readonly logins: Logins | undefined;
  readonly logger: Logger;
  /** Of the connection, in logs. */
  readonly name: string;
  /** Ends every wait. */
  readonly life: AbortSignal;
}

/** AUTH with the latest login on a connection that is open, before the server ends what the former one opened. */
export class LoginRenewal {
  readonly #handle: Handle;
  readonly #options: LoginRenewalOptions;
  /** It waits for the end of a transaction, of an endless BLPOP, or of what lets no AUTH through. */
  #isDue = false;

  constructor(handle: Handle, options: LoginRenewalOptions) {
    this.#handle = handle;
    this.#options = options;
  }

  /** What it waited for may be over. */
  look(): void {
    if (this.#isDue) this.renew();
  }

  renew(): void {
    const { dialer, commandQueue, logins, logger, name, life } = this.#options;
    if (!dialer.hasOldLogin) return;
    const { inTransaction, isMonitoring } = commandQueue.session;
    const runsNothing = isMonitoring || this.#handle.mode === "subscriber"; // the latter with RESP2 only
    this.#isDue = inTransaction || runsNothing || commandQueue.isBlocked;
    if (this.#isDue) return;
    const { username = "default", password, version } = dialer.takeLogin()!;
    this.#handle.own("auth", username, password).catch((error: unknown) => {
      if (!isReplyError(error)) return; // lost meanwhile, and opened anew with the latest
      logger.warn("new credentials were refused by an open connection", { name, code: replyCode(error) });
      logins!.newerThan(version, life).catch(() => {}); // whose coming leads here again
    });
  }
}
