import { misled } from "../connection/foreign.js";
import { monotonic, randomBetween } from "../core/clock.js";
import { AuthFailedError, ConnectFailedError } from "../core/errors.js";
import { errorReason } from "../core/log.js";
import { classifyReply, isReplyError, isUnknown, replyCode } from "../core/replies.js";
import { within } from "../core/waiting.js";
import { redirectionOf } from "./commands.js";
import { anyOf, type ClusterContext, type ClusterNodes, isOpen, type Node } from "./nodes.js";
import type { NodeEndpoint } from "./slot-map.js";

/** While a node is down the others are asked for the map: after a random time, so that threads do not ask together. */
const LOOK_MIN_MS = 150;
const LOOK_MAX_MS = 350;
/** After an answer that contradicts the map, the pauses between two questions double up to this one. */
const REFRESH_MAX_MS = 8_000;
/** A node that takes longer to answer is not waited for: the next one may answer. */
const ANSWER_MS = 1_000;

class NotServingError extends Error {}

interface Failure {
  readonly endpoint: NodeEndpoint;
  readonly error: Error;
}

/** Keeps the slot map up to date: asks nodes for it, and learns from their answers to commands. */
export class TopologyRefresh {
  readonly #context: ClusterContext;
  readonly #nodes: ClusterNodes;
  #isAskingAnother = false;
  #lookTimer: NodeJS.Timeout | undefined;
  #refreshTimer: NodeJS.Timeout | undefined;

  constructor(context: ClusterContext, nodes: ClusterNodes) {
    this.#context = context;
    this.#nodes = nodes;
    if (context.options.redis.readFrom === "replica") this.#refreshIn(REFRESH_MAX_MS);
  }

  /** Takes the map from the first node that gives it, and connects to a node of the map. */
  async discover(leftMs: number): Promise<void> {
    const { slots } = this.#context;
    const giveUpAt = monotonic() + leftMs;
    let failures = await this.#tryEach(this.#nodes.candidates(), giveUpAt, (endpoint, ms) => this.#ask(endpoint, ms));
    // If no node serves, the map of a node that does not serve is better than none.
    const informed = failures?.find(({ error }) => error instanceof NotServingError);
    if (informed)
      failures = await this.#tryEach([informed.endpoint], giveUpAt, (endpoint, ms) => this.#ask(endpoint, ms, true));
    if (!failures && !this.#nodes.areAlive)
      failures = await this.#tryEach(slots.masters, giveUpAt, (endpoint, ms) =>
        connectWithin(this.#nodes.at(endpoint), ms),
      );
    if (failures) throw this.#undiscovered(failures);
  }

  /** What an answer, or its absence, says about the map; the result says where a redirection leads. */
  learn(error: Error, node: Node): { readonly isMoved: boolean; readonly to: NodeEndpoint } | undefined {
    const { slots } = this.#context;
    if (!isReplyError(error)) {
      if ((error as { code?: unknown }).code === "REDTHREAD_COMMAND_TIMEOUT") this.refresh();
      return undefined;
    }
    const redirection = redirectionOf(error);
    if (!redirection) {
      if (replyCode(error) === "CLUSTERDOWN") this.#suspect(node);
      if (classifyReply(error) === "reconnect") this.refresh(); // the node is a master no more
      return undefined;
    }
    const { isMoved, slot, host, port } = redirection;
    const to = slots.atAnnounced({ host: host || node.host, port });
    if (isMoved) {
      slots.moved(slot, to);
      this.refresh();
    }
    return { isMoved, to };
  }

  /** An answer contradicts the map: asks for it on a connection that is open, now and some more times. */
  refresh(): void {
    this.#askAny();
    this.#refreshIn(LOOK_MAX_MS);
  }

  /** Asks the other nodes for the map as long as a node is not connected, or does not serve. */
  watch(): void {
    if (this.#lookTimer !== undefined || this.#context.life.aborted) return;
    this.#lookTimer = setTimeout(() => this.#look(), randomBetween(LOOK_MIN_MS, LOOK_MAX_MS)).unref();
  }

  stop(): void {
    clearTimeout(this.#lookTimer);
    clearTimeout(this.#refreshTimer);
  }

  /** Makes one attempt after the other until one succeeds, each with an equal share of the time that is left. */
  async #tryEach(
    endpoints: readonly NodeEndpoint[],
    giveUpAt: number,
    attempt: (endpoint: NodeEndpoint, ms: number) => Promise<void>,
  ): Promise<Failure[] | undefined> {
    const failures: Failure[] = [];
    for (const [i, endpoint] of endpoints.entries()) {
      const shareMs = (giveUpAt - monotonic()) / (endpoints.length - i);
      try {
        await attempt(endpoint, Math.max(shareMs, 1));
        return undefined;
      } catch (error) {
        this.#context.life.throwIfAborted();
        failures.push({ endpoint, error: error as Error });
      }
    }
    return failures;
  }

  /** Asks this node for the map. A connection to a node without slots is closed again. */
  async #ask(endpoint: NodeEndpoint, ms: number, inAnyState = false): Promise<void> {
    const { slots } = this.#context;
    const isNew = !this.#nodes.has(endpoint);
    const node = this.#nodes.at(endpoint);
    node.isInformant = true;
    try {
      await connectWithin(node, ms);
      await slots.refresh(node.host, () => askForSlots(node, inAnyState));
    } catch (error) {
      if (isNew) this.#nodes.leave(node, { handingOver: true });
      throw error;
    } finally {
      node.isInformant = false;
      if (slots.isKnown && !slots.has(node.address)) this.#nodes.leave(node, { handingOver: true });
    }
  }

  #undiscovered(failures: readonly Failure[]): Error {
    const [first] = failures;
    if (first && failures.every(({ error }) => error instanceof AuthFailedError)) return first.error;
    if (failures.every(({ error }) => isUnknown(error))) {
      const addresses = failures.map(({ endpoint }) => endpoint.address).join(", ");
      return misled(`redis.clusterNodes: no node of a Cluster is at ${addresses}, but a single server or a Sentinel`);
    }
    const reasons = failures.map(({ endpoint, error }) => `${endpoint.address} ${errorReason(error)}`);
    return new ConnectFailedError(
      `no connection for ${this.#context.options.name} to the Cluster (${reasons.join("; ")})`,
      { outcome: "not-sent", cause: failures.at(-1)?.error },
    );
  }

  /** The node said CLUSTERDOWN. The others know whether that is so; until it serves again it counts as down. */
  #suspect(node: Node): void {
    node.isDown = true;
    this.watch();
    this.#askOthers();
  }

  #look(): void {
    this.#lookTimer = undefined;
    const nodes = [...this.#nodes];
    if (nodes.every(({ client, isDown }) => client.state !== "connecting" && !isDown)) return;
    this.watch();
    for (const node of nodes) if (node.isDown && isOpen(node)) void this.#examine(node);
    this.#askOthers();
  }

  /** Finds out whether a node that said CLUSTERDOWN serves again. Its breaker tells all threads. */
  async #examine(node: Node): Promise<void> {
    let isDown: boolean;
    try {
      isDown = !(await isServing(node));
    } catch {
      return; // its client finds out why it does not answer
    }
    if (!this.#nodes.isIn(node)) return;
    node.isDown = isDown;
    const breaker = this.#context.options.gate.nodeBreaker(node);
    if (isDown) breaker.hold();
    else breaker.dismiss();
  }

  #askOthers(): void {
    if ([...this.#nodes].some(({ client, isDown }) => client.isAlive() && !isDown)) return this.#askAny();
    // No connected node serves: asks one that was not needed so far.
    const other = anyOf(this.#nodes.candidates().filter((endpoint) => !this.#nodes.has(endpoint)));
    if (!other || this.#isAskingAnother) return;
    this.#isAskingAnother = true;
    void this.#ask(other, this.#context.options.redis.connectTimeoutMs)
      .catch(() => {}) // the next look asks another one
      .finally(() => (this.#isAskingAnother = false));
  }

  #askAny(): void {
    const node = anyOf([...this.#nodes].filter((one) => isOpen(one) && !one.isDown));
    if (node) this.#context.slots.refresh(node.host, () => askForSlots(node, false)).catch(() => {}); // the next look asks another one
  }

  /**
   * One map is not enough: the other nodes learn only half a node timeout later whose replica a demoted master is. A
   * replica that is down is in no map, and nothing tells of its return: where replicas are read, this never ends.
   */
  #refreshIn(ms: number): void {
    clearTimeout(this.#refreshTimer);
    const { life, slots, options } = this.#context;
    if (life.aborted) return;
    const refresh = (): void => {
      if (!slots.wasAskedWithin(ms / 2)) this.#askAny(); // otherwise another client of the thread has asked
      if (ms < REFRESH_MAX_MS || options.redis.readFrom === "replica")
        this.#refreshIn(Math.min(2 * ms, REFRESH_MAX_MS));
    };
    this.#refreshTimer = setTimeout(refresh, randomBetween(ms / 2, ms)).unref();
  }
}

function connectWithin({ client }: Node, ms: number): Promise<void> {
  return within(
    client.connect(),
    ms,
    () => client.lastFailure ?? new Error(`no connection within ${Math.round(ms)} ms`),
  );
}

/**
 * The node's answer to CLUSTER SLOTS. Rejects if the node says that the Cluster does not serve: a node that has lost the
 * others says so, and its map is old. `inAnyState`: no other node has a better one.
 */
async function askForSlots(node: Node, inAnyState: boolean): Promise<unknown> {
  const asking = answerInTime(node.client.redis.own("cluster", "slots"));
  const [slots, serves] = await Promise.all([asking, inAnyState || isServing(node)]);
  if (!serves) throw new NotServingError("says that the Cluster does not serve");
  return slots;
}

async function isServing({ client }: Node): Promise<boolean> {
  try {
    return !/cluster_state:fail/.test(String(await answerInTime(client.redis.own("cluster", "info"))));
  } catch (error) {
    if (isReplyError(error)) return true; // this user must not ask
    throw error;
  }
}

function answerInTime(answer: Promise<unknown>): Promise<unknown> {
  return within(answer, ANSWER_MS, () => new Error(`no answer within ${ANSWER_MS} ms`));
}
