import { msLeft, restartTime } from "../commands/command-deadlines.js";
import { isReadOnly, type QueuedCommand } from "../commands/ioredis.js";
import { type PipedCommands, rejectOutgoing } from "../commands/pipelines.js";
import { canWrite, traitOf } from "../commands/traits.js";
import { randomBetween } from "../core/clock.js";
import { isReplyError, replyCode } from "../core/replies.js";
import { waitAtMost } from "../core/waiting.js";
import type { ClusterChannels } from "./channels.js";
import { isSharded, notInCluster, refusedInCluster } from "./commands.js";
import type { ClusterContext, ClusterNodes, Node } from "./nodes.js";
import type { TopologyRefresh } from "./topology-refresh.js";

/** The most redirections that a command follows. */
const MAX_REDIRECTIONS = 8;
/** The shortest wait until a command is sent again that the Cluster could not serve. */
const LATER_MS = 100;

/** The answers of a replica that cannot be read at the moment. */
const NOT_SERVING: ReadonlySet<string> = new Set(["MASTERDOWN", "LOADING", "CLUSTERDOWN"]);

const WRITTEN_TO = Symbol("writtenTo");
/** A command that carries its node along, wherever it is redirected to. */
type Written = QueuedCommand & { [WRITTEN_TO]?: Node };

/**
 * Finds the node for each command, and follows redirections, because a command that was redirected has not run. A
 * command that was written and not answered is never sent again here.
 */
export class ClusterRouter {
  readonly #context: ClusterContext;
  readonly #nodes: ClusterNodes;
  readonly #topology: TopologyRefresh;
  readonly #channels: ClusterChannels;
  readonly #later = new Set<() => void>();
  /** From WATCH to EXEC, DISCARD or UNWATCH every command goes there. */
  #pin: Node | undefined;
  /** The WATCH that chose it. */
  #pinning: QueuedCommand | undefined;
  /** WAIT refers to it. */
  #lastWrite: Written | undefined;

  constructor(context: ClusterContext, nodes: ClusterNodes, topology: TopologyRefresh, channels: ClusterChannels) {
    this.#context = context;
    this.#nodes = nodes;
    this.#topology = topology;
    this.#channels = channels;
  }

  send(command: QueuedCommand): unknown {
    const refused = refusedInCluster(command, this.#pin !== undefined);
    if (refused) return rejectOutgoing(command, () => refused);
    const node = this.#route(command);
    if (!this.#context.isPrivate) return this.#hand(command, node, 0);
    const trait = traitOf(command.name);
    const isQueued = this.#isInTransaction && trait !== "exec";
    if (trait === "wait" && !isQueued) return this.#waitBehind(command, node);
    if (!isQueued && canWrite(command)) {
      (command as Written)[WRITTEN_TO] = node;
      this.#lastWrite = command;
    }
    return this.#hand(command, node, 0, this.#keepPin(command, node));
  }

  /** Why this pipeline may not run, if so. */
  refuse(pipeline: readonly QueuedCommand[], ends: number): Error | undefined {
    const hasMulti = pipeline.some(({ name }) => traitOf(name) === "multi");
    for (const command of pipeline) {
      const refused =
        traitOf(command.name) === "subscription"
          ? notInCluster(command.name, "in a pipeline it has no node of its own")
          : refusedInCluster(command, hasMulti);
      if (refused) return refused;
    }
    const slots = pipeline.map((command) => command.getSlot()).filter((slot) => slot !== null);
    const owners = new Set(slots.map((slot) => this.#context.slots.owner(slot)));
    if (owners.size > 1 && !this.#pin)
      return notInCluster("a pipeline", "its keys are on different nodes: use one for each, or a {hash tag}");
    return (this.#pin ?? this.#nodeFor(pipeline)).client.refuse(pipeline, ends);
  }

  /** Sends a pipeline to one node as a whole, whatever becomes of its parts. */
  sendPiped(piped: PipedCommands): unknown {
    if (this.#context.isPrivate && !this.#isInTransaction)
      this.#lastWrite = piped.commands.findLast(canWrite) ?? this.#lastWrite;
    return this.#sendWhole(piped);
  }

  #sendWhole(piped: PipedCommands): unknown {
    const pin = this.#pin;
    const node = pin ?? this.#nodeFor(piped.commands);
    (piped.stream as unknown as { destination: { redis: unknown } }).destination.redis = node.client.redis;
    let rejected = 0;
    for (const command of piped.commands) {
      if (this.#context.isPrivate) {
        this.#keepPin(command, node);
        (command as Written)[WRITTEN_TO] = node;
      }
      const settle = command.reject;
      command.reject = (error) => {
        command.reject = settle;
        if (!node.isHandingOver || pin) {
          this.#topology.learn(error, node);
          this.#unpin(command, error);
          settle.call(command, error);
          // Nothing of it was written: once its last command is rejected, the pipeline goes to another node.
        } else if (++rejected === piped.commands.length) this.#sendWhole(piped);
      };
    }
    return node.client.send(piped);
  }

  /** Asks a node for COMMAND with these arguments: not a node inside a MULTI, if there is another. */
  askAbout(command: QueuedCommand, ...args: (string | Buffer)[]): Promise<unknown> {
    const pinned = this.#pin?.client.inTransaction ? this.#pin : undefined;
    return this.#nodes.any(pinned).client.askAbout(command, ...args);
  }

  /** Forgets what the last holder has watched and written. */
  reset(): void {
    this.#pin = undefined;
    this.#lastWrite = undefined;
  }

  /** Rejects each command that waits to be sent again with the error of its first attempt. */
  close(): void {
    for (const giveUp of this.#later) giveUp();
    this.#later.clear();
  }

  #route(command: QueuedCommand): Node {
    if (this.#pin) return this.#pin;
    if (traitOf(command.name) === "subscription" && !isSharded(command)) return this.#channels.node;
    const slot = command.getSlot();
    return this.#replicaFor(command, slot) ?? this.#ownerOf(slot);
  }

  /** A replica that serves, if the command only reads and replicas are read from. */
  #replicaFor(command: QueuedCommand, slot: number | null): Node | undefined {
    const { options, slots } = this.#context;
    if (options.redis.readFrom === "master" || slot === null) return undefined;
    const owner = slots.owner(slot);
    const isRead = owner !== undefined && traitOf(command.name) === "plain" && isReadOnly(command.name);
    return isRead ? this.#nodes.replicaOf(owner) : undefined;
  }

  /** The node of the first key. */
  #nodeFor(pipeline: readonly QueuedCommand[]): Node {
    return this.#ownerOf(pipeline.find((command) => command.getSlot() !== null)?.getSlot() ?? null);
  }

  /** The master of a slot. Any node will do for a command without keys, and for a slot without an owner: it says so. */
  #ownerOf(slot: number | null): Node {
    const owner = slot === null ? undefined : this.#context.slots.owner(slot);
    return owner ? this.#nodes.at(owner) : this.#nodes.any();
  }

  /** A pinned command follows no redirection: without its WATCH or MULTI it would not mean what its caller wrote. */
  #hand(command: QueuedCommand, node: Node, redirections: number, isPinned = false): unknown {
    const settle = command.reject;
    command.reject = (error) => {
      command.reject = settle;
      const redirection = this.#topology.learn(error, node);
      if (isPinned) this.#unpin(command, error);
      else if (this.#follow(command, node, error, redirection, redirections)) return;
      // A redirection that is not followed would mean nothing to the caller.
      settle.call(command, redirection ? this.#context.errors.notFollowed(command, error) : error);
    };
    if (!isPinned) this.#channels.sending(command, node);
    return node.client.send(command);
  }

  /** Whether the command is on its way again, or will be. */
  #follow(
    command: QueuedCommand,
    node: Node,
    error: Error,
    redirection: ReturnType<TopologyRefresh["learn"]>,
    redirections: number,
  ): boolean {
    if (msLeft(command) <= 0) return false;
    // It was held and not written, or it is a read that `resend` allows to be written once more.
    if (node.isHandingOver) return this.#again(command, this.#route(command), redirections);
    if (!isReplyError(error) || redirections >= MAX_REDIRECTIONS) return false;
    if (redirection) {
      if (traitOf(command.name) === "blocking") restartTime(command);
      const to = this.#nodes.at(redirection.to);
      if (redirection.isMoved) return this.#again(command, to, redirections + 1);
      void this.#ask(command, to, error, redirections + 1);
      return true;
    }
    if (this.#context.slots.isReplica(node.address) && NOT_SERVING.has(replyCode(error))) {
      const owner = this.#ownerOf(command.getSlot());
      if (owner !== node) return this.#again(command, owner, redirections + 1); // otherwise it was promoted just now
    }
    return this.#offerLater(command, error, redirections);
  }

  #again(command: QueuedCommand, node: Node, redirections: number): true {
    if ((command as Written)[WRITTEN_TO]) (command as Written)[WRITTEN_TO] = node;
    markHandled(this.#hand(command, node, redirections));
    return true;
  }

  /** ASKING counts for the next command only: both are sent in one turn, on a connection that is open. */
  async #ask(command: QueuedCommand, node: Node, asked: Error, redirections: number): Promise<void> {
    await waitAtMost(Math.min(msLeft(command), this.#context.options.redis.commandTimeoutMs), node.client.connect());
    if (!node.client.isAlive()) return command.reject(this.#context.errors.notFollowed(command, asked));
    node.client.redis.own("asking").catch(() => {}); // lost with the command behind it, which says so
    this.#again(command, node, redirections);
  }

  /**
   * Sends the command again and again until its deadline, if the Cluster cannot serve it at the moment: a failover takes
   * seconds, in which all nodes may refuse to serve. False if it does not wait.
   */
  #offerLater(command: QueuedCommand, error: Error, redirections: number): boolean {
    const code = replyCode(error);
    const ms = randomBetween(LATER_MS, 2 * LATER_MS);
    const mayWait = this.#context.options.redis.whenDown === "wait" && (code === "CLUSTERDOWN" || code === "TRYAGAIN");
    if (!mayWait || msLeft(command) <= ms) return false;
    const giveUp = (): void => {
      clearTimeout(timer);
      command.reject(error);
    };
    const timer = setTimeout(() => {
      this.#later.delete(giveUp);
      this.#again(command, this.#route(command), redirections);
    }, ms);
    this.#later.add(giveUp);
    return true;
  }

  /** Whether this command belongs to what its node watches, or has queued. */
  #keepPin(command: QueuedCommand, node: Node): boolean {
    const trait = traitOf(command.name);
    const isPinned = trait === "watch" || this.#pin !== undefined;
    if (trait === "watch") {
      if (!this.#pin) this.#pinning = command;
      this.#pin = node;
    } else if (trait === "exec" || trait === "discard" || trait === "unwatch") this.#pin = undefined;
    return isPinned;
  }

  /** A WATCH that was not accepted pins nothing to its node. */
  #unpin(command: QueuedCommand, error: Error): void {
    if (command === this.#pinning && (error as { outcome?: unknown }).outcome !== "unknown") this.#pin = undefined;
  }

  get #isInTransaction(): boolean {
    return this.#pin?.client.inTransaction ?? false;
  }

  /** WAIT has no key: it refers to the connection on which the last write ran, and is sent after the answer to that. */
  #waitBehind(command: QueuedCommand, otherwise: Node): unknown {
    const write = this.#lastWrite;
    if (!write) return otherwise.client.send(command);
    const send = (): void => markHandled(write[WRITTEN_TO]!.client.send(command));
    write.promise.then(send, send);
    return command.promise;
  }
}

/** The caller holds the command's own promise. With a tracer there is a second one, whose rejection would be unhandled. */
function markHandled(sent: unknown): void {
  (sent as Promise<unknown>).catch(() => {});
}
