// The room of Redis Cluster: `ClusterClient` is its face. It imports connection and the rooms below it; a thread loads it
// only if `redis.clusterNodes` is set. Read on from here:
// - router.ts: which node a command goes to, and what becomes of a redirection (rules by command are in commands.ts);
// - nodes.ts: a `Client` for each node, and the state of a node; spares.ts closes connections that others need;
// - topology-refresh.ts: when nodes are asked for the slot map, and what their answers say; slot-map.ts holds the map;
// - channels.ts: which node has which subscription, and how a lost one comes back.

import { CommandErrors } from "../commands/command-errors.js";
import { traitOf } from "../commands/traits.js";
import { Handle, type HandleOwner } from "../commands/handle.js";
import { Command, type QueuedCommand } from "../commands/ioredis.js";
import { KeyPositions } from "../commands/key-positions.js";
import { type Outgoing, PipedCommands, rejectOutgoing } from "../commands/pipelines.js";
import type { ConnectionState } from "../connection/connection-state.js";
import { OwnListeners } from "../connection/session-reset.js";
import { monotonic } from "../core/clock.js";
import { connRetry } from "../core/retry.js";
import { abortable } from "../core/waiting.js";
import { ClusterChannels } from "./channels.js";
import { isSharded } from "./commands.js";
import { type ClusterContext, ClusterNodes, type ClusterOptions, type Node } from "./nodes.js";
import { ClusterRouter } from "./router.js";
import { SlotMap } from "./slot-map.js";
import { SpareConnections } from "./spares.js";
import { TopologyRefresh } from "./topology-refresh.js";

/**
 * For a Cluster what a `Client` is for one server: one client for each node that is needed, behind one handle that never
 * connects itself. The node's own client keeps every promise about a command; the router says which node that is.
 */
export class ClusterClient implements HandleOwner {
  readonly redis: Handle;
  readonly #options: ClusterOptions;
  readonly #errors: CommandErrors;
  readonly #slots: SlotMap;
  readonly #nodes: ClusterNodes;
  readonly #topology: TopologyRefresh;
  readonly #channels: ClusterChannels;
  readonly #router: ClusterRouter;
  readonly #spares: SpareConnections;
  readonly #keys: KeyPositions;
  readonly #listeners: OwnListeners;
  readonly #life = new AbortController();
  #wasConnected = false;
  #connecting: Promise<void> | undefined;
  #closing: Promise<void> | undefined;
  #isClosed = false;

  /** `closeMs` is for the connection to a node that is left. */
  constructor(options: ClusterOptions, closeMs: number) {
    const { redis, role } = options;
    this.#options = options;
    this.#errors = new CommandErrors(options.name, redis.commandTimeoutMs);
    this.redis = new Handle(redis, this);
    this.#slots = SlotMap.of(redis);
    const context: ClusterContext = {
      options,
      slots: this.#slots,
      errors: this.#errors,
      isPrivate: role === "owned" || role === "dedicated",
      life: this.#life.signal,
    };
    this.#nodes = new ClusterNodes(
      context,
      closeMs,
      () => this.#topology.watch(),
      (node) => this.#channels.lost(node),
    );
    this.#topology = new TopologyRefresh(context, this.#nodes);
    this.#channels = new ClusterChannels(context, this.#nodes, this.#topology, this.redis);
    this.#router = new ClusterRouter(context, this.#nodes, this.#topology, this.#channels);
    this.#spares = new SpareConnections(context, this.#nodes);
    this.#keys = new KeyPositions({
      redis,
      errors: this.#errors,
      ask: (command, ...args) => this.#router.askAbout(command, ...args),
      send: (command) => this.#send(command),
    });
    this.#listeners = new OwnListeners(this.redis);
  }

  get state(): ConnectionState {
    if (this.#closing) return this.#isClosed ? "closed" : "connected";
    if (this.isAlive()) return "connected";
    return this.#wasConnected || this.#connecting ? "connecting" : "disconnected";
  }

  get areSubscriptionsBack(): boolean {
    return this.#channels.isComplete;
  }

  /** The number of nodes that commands go to, as far as it is known. */
  get nodes(): number {
    return this.#slots.size;
  }

  /**
   * Resolves once the slot map is known and a node is connected; rejects by the retry deadline. Concurrent callers share
   * one attempt, which goes on for the others when one of them aborts.
   * @throws REDTHREAD_CONNECT_FAILED, REDTHREAD_AUTH_FAILED, REDTHREAD_NOT_SENT (closed), `signal.reason`
   */
  async connect(signal?: AbortSignal): Promise<void> {
    if (this.#closing) throw this.#errors.closed();
    if (this.isAlive()) return this.#connected();
    await abortable((this.#connecting ??= this.#connect().finally(() => (this.#connecting = undefined))), signal);
  }

  /** Whether any node can be reached: a fault of one node does not concern the commands for the others. */
  isAlive(): boolean {
    return this.#closing === undefined && this.#nodes.areAlive;
  }

  /** The node of the next command is not known yet. The heartbeat of each node finds a half-open connection. */
  isFresh(): boolean {
    return this.isAlive();
  }

  async check(): Promise<boolean> {
    return this.isAlive();
  }

  /** Whether the client is fit for its next holder. Connections that cannot be repaired are closed. */
  async reset(): Promise<boolean> {
    if (!this.isAlive() || this.#keys.isBusy) return false;
    this.#listeners.removeForeign();
    this.#router.reset();
    this.#channels.reset();
    const repairing = [...this.#nodes].map(async (node) => {
      if (!(await repair(node).catch(() => false))) this.#nodes.leave(node, { handingOver: false });
    });
    await Promise.all(repairing);
    return this.isAlive();
  }

  /** Each connection as `Client.close`; never rejects. */
  async close(ms: number): Promise<void> {
    if (!this.#closing) return (this.#closing = this.#close(ms));
    await this.#nodes.close(ms); // this caller may have less time left than the first one had
    return this.#closing;
  }

  /** As `Client.callOff`: a blocking command on one node ends the connections to all. */
  callOff(reason: unknown): boolean {
    const ended = [...this.#nodes].filter(({ client }) => client.callOff(reason));
    if (ended.length > 0) void this.close(0);
    return ended.length > 0;
  }

  /** The handle of the node that commands with this key go to, as far as it is known. It stands for one connection. */
  nodeOf(key: string | Buffer): Handle | undefined {
    const owner = this.#slots.owner(new Command("get", [key]).getSlot());
    return owner && this.#nodes.at(owner).client.redis;
  }

  renewLogin(): void {
    for (const { client } of this.#nodes) client.renewLogin();
  }

  // The owner of the handle

  send(outgoing: Outgoing): unknown {
    if (this.#closing) return rejectOutgoing(outgoing, () => this.#errors.closed());
    if (outgoing instanceof PipedCommands) return this.#router.sendPiped(outgoing);
    return this.#keys.delays(outgoing) ? outgoing.promise : this.#send(outgoing);
  }

  delay<T>(pipeline: readonly QueuedCommand[], run: () => Promise<T>): Promise<T> | undefined {
    return this.#closing ? undefined : this.#keys.delay(pipeline, run);
  }

  #send(command: QueuedCommand): unknown {
    const isRefused = isSharded(command) && command.args.length === 0; // the router or the node rejects it
    if (traitOf(command.name) !== "subscription" || isRefused) return this.#router.send(command);
    const { asked } = this.#channels;
    asked.sent(command);
    const sent = this.#router.send(command);
    // The node may have been left before it answered. The caller is told of a failure.
    command.promise.then(
      () => this.#channels.resubscribe(asked.of(command)),
      () => {},
    );
    return sent;
  }

  refuse(pipeline: readonly QueuedCommand[], ends: number): Error | undefined {
    return this.#router.refuse(pipeline, ends);
  }

  /** The handle has no connection: no answer comes to it, and no connection of it fails. */
  rejected(): void {}
  failed(): void {}

  refuseEnd(): Error | undefined {
    return this.#options.role === "owned" ? undefined : this.#errors.needsDedicated("quit");
  }

  async end(ms: number = this.#options.redis.commandTimeoutMs): Promise<void> {
    const refused = this.refuseEnd();
    if (refused) throw refused;
    await this.close(ms);
  }

  async #connect(): Promise<void> {
    const { retry, logger, name } = this.#options;
    const deadline = monotonic() + retry.deadlineMs;
    const options = { ...retry, logger, signal: this.#life.signal };
    const discover = (): Promise<void> => this.#topology.discover(deadline - monotonic());
    try {
      await connRetry("Redis Cluster", `connecting ${name}`, options)(discover)();
    } catch (error) {
      throw this.#life.signal.aborted ? this.#errors.closed() : error;
    }
    this.#connected();
  }

  #connected(): void {
    if (this.#wasConnected) return;
    this.#wasConnected = true;
    this.redis.showStatus("ready");
  }

  async #close(ms: number): Promise<void> {
    this.#life.abort(this.#errors.closed());
    this.#spares.stop();
    this.#topology.stop();
    this.#router.close();
    this.#keys.close(this.#errors.closed());
    await this.#nodes.close(ms);
    await this.#connecting?.catch(() => {}); // aborted: its callers are told
    await this.#nodes.close(ms); // a node may have been added meanwhile
    this.#isClosed = true;
    this.#options.onState?.("closed", "disconnected");
    this.redis.showStatus("end");
  }
}

async function repair({ client }: Node): Promise<boolean> {
  return client.reset();
}
