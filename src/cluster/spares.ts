import { randomBetween } from "../core/clock.js";
import type { ClusterContext, ClusterNodes } from "./nodes.js";

/** A shared client gives up a connection only if the spare connections of leases were not enough. */
const LATER_MS = 50;

/** Closes connections of one ClusterClient that are not in use, while other clients of the process wait for a permit. */
export class SpareConnections {
  readonly #context: ClusterContext;
  readonly #nodes: ClusterNodes;
  readonly #unlisten: (() => void) | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(context: ClusterContext, nodes: ClusterNodes) {
    this.#context = context;
    this.#nodes = nodes;
    const { options, isPrivate } = context;
    if (options.role === "subscriber") return; // its connections look idle, but are not
    this.#unlisten = options.gate.whenWanted(isPrivate ? () => this.#giveUpOne() : () => this.#giveUpLater());
  }

  stop(): void {
    this.#unlisten?.();
    clearTimeout(this.#timer);
  }

  #giveUpLater(): void {
    this.#timer ??= setTimeout(
      () => {
        this.#timer = undefined;
        if (!this.#context.options.gate.isWanted) return;
        this.#giveUpOne();
        this.#giveUpLater();
      },
      randomBetween(LATER_MS, 2 * LATER_MS),
    ).unref();
  }

  /** Prefers a connection that was not used just now. A shared client keeps its last connection. */
  #giveUpOne(): void {
    const open = [...this.#nodes].filter(({ client }) => client.isAlive());
    const idle = open.filter(({ client }) => client.isIdle);
    const spare = idle.find(({ client }) => !client.isFresh(LATER_MS)) ?? idle[0];
    if (spare && (this.#context.isPrivate || open.length > 1)) this.#nodes.leave(spare, { handingOver: false });
  }
}
