import { msLeft, restartTime } from "../commands/command-deadlines.js";
import type { CommandErrors } from "../commands/command-errors.js";
import { isReadOnly, type QueuedCommand } from "../commands/ioredis.js";
import type { PipedCommands } from "../commands/pipelines.js";
import { canWrite, traitOf } from "../commands/traits.js";
import type { RedisConfig } from "../config/options.js";
import { classifyReply, isReplyError, replyCode } from "../core/replies.js";
import { waitAtMost } from "../core/waiting.js";
import { randomBetween } from "../core/clock.js";
import { isOfChannels, isOfShards, notInCluster, redirectionOf, refusedInCluster } from "./commands.js";
import type { ClusterNodes, Node } from "./nodes.js";
import type { Place, SlotMap } from "./slot-map.js";

export interface RouterOptions {
  readonly redis: RedisConfig;
  readonly errors: CommandErrors;
  readonly nodes: ClusterNodes;
  readonly slots: SlotMap;
  /** Of one holder: it may WATCH, and WAIT for what it wrote. */
  readonly isPrivate: boolean;
  /** Where subscriptions are. */
  readonly channelNode: () => Node;
  /** Before a command, or one that was redirected, goes to a node. */
  readonly onHand: (command: QueuedCommand, node: Node) => void;
}

/** A command that so many nodes sent on is not sent on any more. */
const MAX_REDIRECTIONS = 8;
/** The Cluster serves nobody at the moment: until a command is offered again. */
const LATER_MS = 100;

/** Of a replica that cannot be read at the moment. */
const NOT_SERVING: ReadonlySet<string> = new Set(["MASTERDOWN", "LOADING", "CLUSTERDOWN"]);

const WRITTEN_TO = Symbol("writtenTo");
/** Carries along where it was sent, wherever it is redirected to. */
type Written = QueuedCommand & { [WRITTEN_TO]?: Node };

interface PipelineStream {
  readonly destination: { redis: unknown };
}

/**
 * Finds the node for each command, and follows what a node redirects: that has not run. What was written and not
 * answered is never followed.
 */
export class ClusterRouter {
  readonly #options: RouterOptions;
  readonly #later = new Set<() => void>();
  /** From WATCH to EXEC, DISCARD or UNWATCH everything goes there. */
  #pin: Node | undefined;
  /** The WATCH that chose it. */
  #pinning: QueuedCommand | undefined;
  /** What WAIT waits for. */
  #lastWrite: Written | undefined;

  constructor(options: RouterOptions) {
    this.#options = options;
  }

  send(command: QueuedCommand): unknown {
    const refused = refusedInCluster(command, this.#pin !== undefined);
    if (refused) return reject(command, refused);
    const node = this.#route(command);
    if (!this.#options.isPrivate) return this.#hand(command, node, 0);
    const trait = traitOf(command.name);
    const isQueued = this.#isInTransaction && trait !== "exec";
    if (trait === "wait" && !isQueued) return this.#waitBehind(command, node);
    if (!isQueued && canWrite(command)) this.#wrote(command, node);
    return this.#keepPin(command, node) ? this.#handPinned(command, node) : this.#hand(command, node, 0);
  }

  /** Why this pipeline may not run, if so. */
  refuse(pipeline: readonly QueuedCommand[], ends: number): Error | undefined {
    const hasMulti = pipeline.some(({ name }) => traitOf(name) === "multi");
    for (const command of pipeline) {
      const refused =
        isOfChannels(command) || isOfShards(command)
          ? notInCluster(command.name, "in a pipeline it has no node of its own")
          : refusedInCluster(command, hasMulti);
      if (refused) return refused;
    }
    const slots = pipeline.map((command) => command.getSlot()).filter((slot) => slot !== null);
    const owners = new Set(slots.map((slot) => this.#options.slots.owner(slot)));
    if (owners.size > 1 && !this.#pin)
      return notInCluster("a pipeline", "its keys are on different nodes: use one for each, or a {hash tag}");
    return (this.#pin ?? this.#nodeFor(pipeline)).client.refuse(pipeline, ends);
  }

  /** As a whole to one node, whatever becomes of its parts. */
  sendPiped(piped: PipedCommands): unknown {
    if (this.#options.isPrivate && !this.#isInTransaction)
      this.#lastWrite = piped.commands.findLast(canWrite) ?? this.#lastWrite;
    return this.#sendWhole(piped);
  }

  #sendWhole(piped: PipedCommands): unknown {
    const pin = this.#pin;
    const node = pin ?? this.#nodeFor(piped.commands);
    (piped.stream as unknown as PipelineStream).destination.redis = node.client.redis;
    let turnedAway = 0;
    for (const command of piped.commands) {
      if (this.#options.isPrivate) {
        this.#keepPin(command, node);
        (command as Written)[WRITTEN_TO] = node;
      }
      const settle = command.reject;
      command.reject = (error) => {
        command.reject = settle;
        if (!node.isHandingOver || pin) {
          this.learn(error, node);
          this.#unpin(command, error);
          settle.call(command, error);
          // None of it has been written, and with its last command it goes another way.
        } else if (++turnedAway === piped.commands.length) this.#sendWhole(piped);
      };
    }
    return node.client.send(piped);
  }

  /** COMMAND with these arguments, of any node: not of one inside a MULTI, if there is another. */
  askAbout(command: QueuedCommand, ...args: (string | Buffer)[]): Promise<unknown> {
    const pinned = this.#pin?.client.inTransaction ? this.#pin : undefined;
    return this.#options.nodes.any(pinned).client.askAbout(command, ...args);
  }

  /** A new holder: what the last one watched is no longer of interest. */
  reset(): void {
    this.#pin = undefined;
    this.#lastWrite = undefined;
  }

  /** What waits for a better moment is answered with what it was refused with. */
  close(): void {
    for (const giveUp of this.#later) giveUp();
    this.#later.clear();
  }

  /** What an answer, or its absence, says about the map. */
  learn(error: Error, node: Node): { readonly isMoved: boolean; readonly to: Place } | undefined {
    const { slots, nodes } = this.#options;
    if (!isReplyError(error)) {
      if ((error as { code?: unknown }).code === "REDTHREAD_COMMAND_TIMEOUT") nodes.refresh();
      return undefined;
    }
    const redirection = redirectionOf(error);
    if (!redirection) {
      if (replyCode(error) === "CLUSTERDOWN") nodes.suspect(node);
      if (classifyReply(error) === "reconnect") nodes.refresh(); // it is the master no more
      return undefined;
    }
    const { isMoved, slot, host, port } = redirection;
    const to = slots.toldAt({ host: host || node.host, port });
    if (isMoved) {
      slots.moved(slot, to);
      nodes.refresh();
    }
    return { isMoved, to };
  }

  #route(command: QueuedCommand): Node {
    if (this.#pin) return this.#pin;
    if (isOfChannels(command)) return this.#options.channelNode();
    const slot = command.getSlot();
    return this.#replicaFor(command, slot) ?? this.#nodeOf(slot);
  }

  /** For a command that only reads, if that may be done there and one serves. */
  #replicaFor(command: QueuedCommand, slot: number | null): Node | undefined {
    const { redis, slots, nodes } = this.#options;
    if (redis.readFrom === "master" || slot === null) return undefined;
    const owner = slots.owner(slot);
    const isRead = owner !== undefined && traitOf(command.name) === "plain" && isReadOnly(command.name);
    return isRead ? nodes.replicaOf(owner) : undefined;
  }

  #isReplica({ address }: Node): boolean {
    return this.#options.slots.isReplica(address);
  }

  /** That of the first key. */
  #nodeFor(pipeline: readonly QueuedCommand[]): Node {
    return this.#nodeOf(pipeline.find((command) => command.getSlot() !== null)?.getSlot() ?? null);
  }

  /** Of a slot without an owner any node can say so. */
  #nodeOf(slot: number | null): Node {
    const owner = slot === null ? undefined : this.#options.slots.owner(slot);
    return owner ? this.#options.nodes.at(owner) : this.#options.nodes.any();
  }

  #hand(command: QueuedCommand, node: Node, redirections: number): unknown {
    const settle = command.reject;
    command.reject = (error) => {
      command.reject = settle;
      if (!this.#follow(command, node, error, redirections)) settle.call(command, this.#told(command, error));
    };
    this.#options.onHand(command, node);
    return node.client.send(command);
  }

  /** Without its WATCH or MULTI it would not mean what its caller wrote: it goes nowhere else. */
  #handPinned(command: QueuedCommand, node: Node): unknown {
    const settle = command.reject;
    command.reject = (error) => {
      command.reject = settle;
      this.learn(error, node);
      this.#unpin(command, error);
      settle.call(command, this.#told(command, error));
    };
    return node.client.send(command);
  }

  /** Whether the command is on its way again, or will be. */
  #follow(command: QueuedCommand, node: Node, error: Error, redirections: number): boolean {
    const redirection = this.learn(error, node);
    if (msLeft(command) <= 0) return false;
    // Held, and not written; or a read that `resend` lets be written once more.
    if (node.isHandingOver) return this.#again(command, this.#route(command), redirections);
    if (!isReplyError(error) || redirections >= MAX_REDIRECTIONS) return false;
    if (!redirection && this.#isReplica(node) && NOT_SERVING.has(replyCode(error))) {
      const owner = this.#nodeOf(command.getSlot());
      if (owner !== node) return this.#again(command, owner, redirections + 1); // else it was promoted just now
    }
    if (!redirection) return this.#isForLater(error) && this.#offerLater(command, error, redirections);
    if (traitOf(command.name) === "blocking") restartTime(command);
    const { isMoved, to } = redirection;
    if (isMoved) return this.#again(command, this.#options.nodes.at(to), redirections + 1);
    void this.#ask(command, this.#options.nodes.at(to), error, redirections + 1);
    return true;
  }

  #again(command: QueuedCommand, node: Node, redirections: number): boolean {
    if ((command as Written)[WRITTEN_TO]) (command as Written)[WRITTEN_TO] = node;
    heard(this.#hand(command, node, redirections));
    return true;
  }

  /** ASKING counts for the next command only: both leave in one turn, on a connection that is there. */
  async #ask(command: QueuedCommand, node: Node, asked: Error, redirections: number): Promise<void> {
    const ms = Math.min(msLeft(command), this.#options.redis.commandTimeoutMs);
    // That it was not sent on is what the redirection itself says.
    await waitAtMost(ms, node.client.connect());
    if (!node.client.isAlive()) return command.reject(this.#told(command, asked));
    node.client.redis.own("asking").catch(() => {}); // lost with the command behind it, which says so
    this.#again(command, node, redirections);
  }

  /** A redirection that is not followed means nothing to its caller. */
  #told(command: QueuedCommand, error: Error): Error {
    const isRedirected = isReplyError(error) && redirectionOf(error) !== undefined;
    return isRedirected ? this.#options.errors.notFollowed(command, error) : error;
  }

  #isForLater(error: Error): boolean {
    const code = replyCode(error);
    return this.#options.redis.whenDown === "wait" && (code === "CLUSTERDOWN" || code === "TRYAGAIN");
  }

  /** Offered again and again until its deadline: a failover takes seconds, in which all nodes may refuse to serve. */
  #offerLater(command: QueuedCommand, error: Error, redirections: number): boolean {
    const ms = randomBetween(LATER_MS, 2 * LATER_MS);
    if (msLeft(command) <= ms) return false;
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

  /** A WATCH that was not accepted holds nobody at its node. */
  #unpin(command: QueuedCommand, error: Error): void {
    if (command === this.#pinning && (error as { outcome?: unknown }).outcome !== "unknown") this.#pin = undefined;
  }

  get #isInTransaction(): boolean {
    return this.#pin?.client.inTransaction ?? false;
  }

  #wrote(command: Written, node: Node): void {
    command[WRITTEN_TO] = node;
    this.#lastWrite = command;
  }

  /** WAIT has no key: it speaks of the connection on which the last write was carried out, and comes after its answer. */
  #waitBehind(command: QueuedCommand, otherwise: Node): unknown {
    const write = this.#lastWrite;
    if (!write) return otherwise.client.send(command);
    const send = (): void => heard(write[WRITTEN_TO]!.client.send(command));
    write.promise.then(send, send);
    return command.promise;
  }
}

/** Its caller holds the command's own promise; a traced twin has no other ear. */
function heard(sent: unknown): void {
  (sent as Promise<unknown>).catch(() => {});
}

function reject(command: QueuedCommand, error: Error): unknown {
  command.reject(error);
  return command.promise;
}
