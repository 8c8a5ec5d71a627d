import type { MessagePort } from "node:worker_threads";
import type { FromHelper, ToHelper } from "../../link/protocol.js";
import { SyncArea } from "../../link/sync-area.js";

/** A thread's helper for synchronous calls as the manager sees it: whom to send logins, and what to do at its end. */
export class ThreadHelper {
  readonly #port: MessagePort;
  readonly #area: SyncArea;
  readonly #onGone: () => void;
  #isGone = false;

  /** `onGone` takes back what it held; it is called once, before its thread may start another. */
  constructor(
    port: MessagePort,
    area: SharedArrayBuffer,
    { receive, onGone }: { receive: (message: FromHelper) => void; onGone: () => void },
  ) {
    this.#port = port;
    this.#area = new SyncArea(area);
    this.#onGone = onGone;
    port.on("message", receive);
    port.once("close", () => this.gone());
  }

  post(message: ToHelper): void {
    this.#port.postMessage(message);
  }

  /** Its end of the link is closed, or its thread is dead, which it does not outlive. Idempotent. */
  gone(): void {
    if (this.#isGone) return;
    this.#isGone = true;
    this.#onGone();
    this.#area.markGone();
    this.#port.close();
  }
}
