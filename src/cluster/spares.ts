import type { Client } from "../connection/client.js";
import type { ClientRole } from "../core/names.js";
import { randomBetween } from "../core/clock.js";
import type { ConnectGate } from "../gate/connect-gate.js";

export interface SparesOptions<Node extends { readonly client: Client }> {
  readonly gate: ConnectGate;
  readonly role: ClientRole;
  readonly nodes: Iterable<Node>;
  /** Closes the connection to a node; the next command for it opens another. */
  readonly leave: (node: Node) => void;
  /** Of one holder, who needs one node after the other. */
  readonly isPrivate: boolean;
}

/** What many use is given up when the leases' spare connections were not enough. */
const LATER_MS = 50;

/** The connections of one ClusterClient that are not used at the moment: they make room for what others of the process wait for. */
export class SpareConnections<Node extends { readonly client: Client }> {
  readonly #options: SparesOptions<Node>;
  readonly #unlisten: () => void;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: SparesOptions<Node>) {
    this.#options = options;
    const { role, gate, isPrivate } = options;
    const giveUp = isPrivate ? () => this.#giveUpOne() : () => this.#giveUpLater();
    // A subscriber's connections look idle, and are not.
    this.#unlisten = role === "subscriber" ? () => {} : gate.whenWanted(giveUp);
  }

  stop(): void {
    this.#unlisten();
    clearTimeout(this.#timer);
  }

  #giveUpLater(): void {
    this.#timer ??= setTimeout(
      () => {
        this.#timer = undefined;
        if (!this.#options.gate.isWanted) return;
        this.#giveUpOne();
        this.#giveUpLater();
      },
      randomBetween(LATER_MS, 2 * LATER_MS),
    ).unref();
  }

  /** Rather one that has rested than one that was used just now. What many use keeps its last one. */
  #giveUpOne(): void {
    const { nodes, leave, isPrivate } = this.#options;
    const open = [...nodes].filter(({ client }) => client.isAlive());
    const idle = open.filter(({ client }) => client.isIdle);
    const spare = idle.find(({ client }) => !client.isFresh(LATER_MS)) ?? idle[0];
    if (spare && (isPrivate || open.length > 1)) leave(spare);
  }
}
