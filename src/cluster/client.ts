import { AskedChannels } from "../commands/asked-channels.js";
import { CommandErrors } from "../commands/command-errors.js";
import { traitOf } from "../commands/traits.js";
import { Handle, type HandleOwner } from "../commands/handle.js";
import type { QueuedCommand } from "../commands/ioredis.js";
import { KeyPositions } from "../commands/key-positions.js";
import { type Outgoing, PipedCommands, rejectOutgoing } from "../commands/pipelines.js";
import type { Client } from "../connection/client.js";
import type { ConnectionState } from "../connection/connection-state.js";
import { OwnListeners } from "../connection/own-listeners.js";
import type { ClientRole } from "../core/names.js";
import { connRetry } from "../core/retry.js";
import { monotonic } from "../core/clock.js";
import { abortable } from "../core/waiting.js";
import { ClusterChannels } from "./channels.js";
import { isOfShards } from "./commands.js";
import { ClusterNodes, type ClusterOptions } from "./nodes.js";
import { ClusterRouter } from "./router.js";
import { SlotMap } from "./slot-map.js";

/** Of one holder at a time. */
const PRIVATE_ROLES: ReadonlySet<ClientRole> = new Set(["owned", "dedicated"]);

/**
 * What a `Client` is for one server, for a Cluster: one client for each node that is needed, behind one handle that never
 * connects itself. Every promise is kept by the node's own client; which node it is, is the router's to say.
 */
export class ClusterClient implements HandleOwner {
  readonly redis: Handle;
  readonly #options: ClusterOptions;
  readonly #errors: CommandErrors;
  readonly #slots: SlotMap;
  readonly #nodes: ClusterNodes;
  readonly #router: ClusterRouter;
  readonly #asked = new AskedChannels();
  readonly #channels: ClusterChannels;
  readonly #keys: KeyPositions;
  readonly #listeners: OwnListeners;
  readonly #life = new AbortController();
  #wasConnected = false;
  #connecting: Promise<void> | undefined;
  #closing: Promise<void> | undefined;
  #isClosed = false;

  /** `closeMs` is for the connection to a node that leaves. */
  constructor(options: ClusterOptions, closeMs: number) {
    const { redis, role, onResubscribed } = options;
    this.#options = options;
    this.#errors = new CommandErrors(options.name, redis.commandTimeoutMs);
    this.redis = new Handle(redis, this);
    this.#slots = SlotMap.of(redis);
    const life = this.#life.signal;
    const isPrivate = PRIVATE_ROLES.has(role);
    this.#nodes = new ClusterNodes({
      cluster: options,
      slots: this.#slots,
      closeMs,
      isPrivate,
      life,
      onLost: (node) => this.#channels.lost(node),
    });
    this.#router = new ClusterRouter({
      redis,
      errors: this.#errors,
      nodes: this.#nodes,
      slots: this.#slots,
      isPrivate,
      channelNode: () => this.#channels.node,
      onHand: (command, node) => this.#channels.handed(command, node),
    });
    this.#channels = new ClusterChannels({
      redis: this.redis,
      asked: this.#asked,
      nodes: this.#nodes,
      slots: this.#slots,
      life,
      answerMs: redis.commandTimeoutMs,
      logger: options.logger,
      name: options.name,
      learn: (error, node) => this.#router.learn(error, node),
      onResubscribed,
    });
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

  /** How many nodes commands go to, as far as is known. */
  get nodes(): number {
    return this.#slots.size;
  }

  /**
   * The map is known and a node connected, or an error by the retry deadline; concurrent callers share one attempt. An
   * abort frees its caller, the attempt goes on for the others.
   * @throws REDTHREAD_CONNECT_FAILED, REDTHREAD_AUTH_FAILED, REDTHREAD_NOT_SENT (closed), `signal.reason`
   */
  async connect(signal?: AbortSignal): Promise<void> {
    if (this.#closing) throw this.#errors.closed();
    if (this.isAlive()) return this.#connected();
    await abortable((this.#connecting ??= this.#connect().finally(() => (this.#connecting = undefined))), signal);
  }

  /** Whether any node can be reached: the trouble of one is not everybody's. */
  isAlive(): boolean {
    return this.#closing === undefined && this.#nodes.areAlive;
  }

  /** Which node the next command goes to is not known: each one's heartbeat finds out what is half-open. */
  isFresh(): boolean {
    return this.isAlive();
  }

  async check(): Promise<boolean> {
    return this.isAlive();
  }

  /** Fit for the next holder, without those connections that cannot be repaired. */
  async reset(): Promise<boolean> {
    if (!this.isAlive() || this.#keys.isBusy) return false;
    this.#listeners.removeForeign();
    this.#router.reset();
    this.#channels.reset();
    const repairing = [...this.#nodes].map(async (node) => {
      if (!(await isRepaired(node.client))) this.#nodes.leave(node, { handingOver: false });
    });
    await Promise.all(repairing);
    return this.isAlive();
  }

  /** Each connection as `Client.close`; never rejects. */
  async close(ms: number): Promise<void> {
    if (!this.#closing) return (this.#closing = this.#close(ms));
    await this.#nodes.close(ms); // who has less time left than the first caller had
    return this.#closing;
  }

  /** As `Client.callOff`: one node's blocking command ends all. */
  callOff(reason: unknown): boolean {
    const ended = [...this.#nodes].filter(({ client }) => client.callOff(reason));
    if (ended.length > 0) void this.close(0);
    return ended.length > 0;
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
    const isRefused = isOfShards(command) && command.args.length === 0; // by the router
    if (traitOf(command.name) !== "subscription" || isRefused) return this.#router.send(command);
    this.#asked.sent(command);
    const sent = this.#router.send(command);
    // Its node may have been left before it answered. A failure is heard by the caller.
    command.promise.then(
      () => this.#channels.look(this.#asked.of(command)),
      () => {},
    );
    return sent;
  }

  refuse(pipeline: readonly QueuedCommand[], ends: number): Error | undefined {
    return this.#router.refuse(pipeline, ends);
  }

  /** The handle has no connection, so nobody answers it and nothing of it fails. */
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
    const discover = (): Promise<void> => this.#nodes.discover(deadline - monotonic());
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
    this.#router.close();
    this.#keys.close(this.#errors.closed());
    await this.#nodes.close(ms);
    await this.#connecting?.catch(() => {}); // aborted, and heard where it was asked for
    await this.#nodes.close(ms); // opened in that very moment
    this.#isClosed = true;
    this.#options.onState?.("closed", "disconnected");
    this.redis.showStatus("end");
  }
}

async function isRepaired(client: Client): Promise<boolean> {
  try {
    return await client.reset();
  } catch {
    return false;
  }
}
