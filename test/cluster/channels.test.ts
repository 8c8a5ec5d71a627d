import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { test } from "node:test";
import { Command } from "ioredis";
import type { AskedChannel } from "../../src/commands/asked-channels.js";
import { ClusterChannels } from "../../src/cluster/channels.js";
import type { ClusterContext, ClusterNodes, Node } from "../../src/cluster/nodes.js";
import type { Handle } from "../../src/commands/handle.js";
import type { TopologyRefresh } from "../../src/cluster/topology-refresh.js";
import { eventually, gate } from "../support/gate.js";

/** A node that acts between a subscription and its answer: a real one cannot be made to do that in time. */
class Fake {
  readonly redis = Object.assign(new EventEmitter(), {
    isSubscribedTo: ({ channel }: AskedChannel) => this.kept.includes(channel),
  });
  readonly asked: string[] = [];
  /** The channels that it keeps after it has given up a slot. */
  kept: unknown[] = [];
  refusal: Error | undefined;
  isIn = true;
  answers: Promise<void> | undefined;

  get node(): Node {
    return this as unknown as Node;
  }

  get client(): object {
    const subscribeAgain = async ({ by, channel }: AskedChannel, onStands: () => void): Promise<void> => {
      this.asked.push(`${by} ${String(channel)}`);
      await this.answers;
      if (this.refusal) throw this.refusal;
      onStands();
    };
    return { redis: this.redis, connect: async () => {}, subscribeAgain };
  }
}

function setUp() {
  const [from, to] = [new Fake(), new Fake()];
  const seen = { messages: [] as unknown[][], left: [] as unknown[], gaps: [] as unknown[], warned: [] as unknown[] };
  const redis = new EventEmitter().on("smessage", (...message: unknown[]) => void seen.messages.push(message));
  const nodes = {
    at: () => to,
    any: () => to,
    isIn: (node: Fake) => node.isIn,
    leave: (node: unknown, { handingOver }: { handingOver: boolean }) => void seen.left.push([node, handingOver]),
  };
  const context = {
    options: {
      name: "test",
      redis: { commandTimeoutMs: 10_000 },
      logger: { ...console, warn: (message: string, fields: unknown) => void seen.warned.push([message, fields]) },
      onResubscribed: ({ channel }: AskedChannel) => seen.gaps.push(channel),
    },
    slots: { owner: () => ({}) },
    life: new AbortController().signal,
  };
  const channels = new ClusterChannels(
    context as unknown as ClusterContext,
    nodes as unknown as ClusterNodes,
    { learn: () => undefined, refresh: () => {} } as unknown as TopologyRefresh,
    redis as unknown as Handle,
  );
  const { asked } = channels;
  const send = (command: Command, node: Node): Command => {
    asked.sent(command);
    channels.sending(command, node);
    return command;
  };
  const answered = (command: Command): void => {
    command.resolve(1);
    channels.resubscribe(asked.of(command));
  };
  return { from, to, seen, asked, channels, send, answered };
}

test("a slot that moves before its subscription is answered, or while it is subscribed to again, is subscribed to at its new node", async () => {
  const { from, to, seen, channels, send, answered } = setUp();
  const command = send(new Command("ssubscribe", ["news"]), from.node);
  from.redis.emit("moved");
  const answers = gate();
  to.answers = answers.promise;
  answered(command);
  assert.equal(channels.isComplete, false);
  await eventually(() => to.asked.length === 1);
  to.redis.emit("moved");
  answers.open();
  await eventually(() => channels.isComplete);
  assert.deepEqual(to.asked, ["ssubscribe news", "ssubscribe news"]);
  assert.deepEqual(seen.gaps, ["news"]);
});

test("a node that is left while it is asked to subscribe does not count as subscribed", async () => {
  const { from, to, channels, send, answered } = setUp();
  answered(send(new Command("ssubscribe", ["news"]), from.node));
  const answers = gate();
  to.answers = answers.promise;
  from.redis.emit("moved");
  await eventually(() => to.asked.length === 1);
  channels.lost(to.node); // its QUIT is sent behind the SSUBSCRIBE, which is answered
  answers.open();
  await eventually(() => channels.isComplete);
  assert.deepEqual(to.asked, ["ssubscribe news", "ssubscribe news"]);
});

test("a node that was lost and comes back delivers each message once, and a node that was left delivers none", async () => {
  const { from, seen, channels, send, answered } = setUp();
  answered(send(new Command("ssubscribe", ["news"]), from.node));
  channels.lost(from.node);
  await eventually(() => seen.gaps.length === 1);
  send(new Command("ssubscribe", ["weather"]), from.node);
  from.redis.emit("smessage", "weather", "rain");
  assert.deepEqual(seen.messages, [["weather", "rain"]]);
  from.isIn = false;
  from.redis.emit("smessage", "weather", "snow");
  assert.equal(seen.messages.length, 1);
});

test("the next holder has no subscription, and each node that had one is left", async () => {
  const { from, to, seen, channels, send, answered } = setUp();
  answered(send(new Command("ssubscribe", ["news"]), from.node));
  channels.reset();
  assert.deepEqual(seen.left, [[from, false]]);
  channels.lost(from.node);
  await new Promise(setImmediate);
  assert.deepEqual([to.asked, seen.gaps], [[], []]);
});

test("when a slot moves, only its own channels are subscribed to again", async () => {
  const { from, to, seen, channels, send, answered } = setUp();
  answered(send(new Command("ssubscribe", ["here", "moved"]), from.node));
  answered(send(new Command("subscribe", ["plain"]), from.node));
  answered(send(new Command("psubscribe", ["pla*"]), from.node));
  from.kept = ["here"];
  from.redis.emit("moved");
  await eventually(() => seen.gaps.length > 0 && channels.isComplete);
  assert.deepEqual([to.asked, seen.gaps], [["ssubscribe moved"], ["moved"]]);
});

test("a channel whose second SUBSCRIBE went to another node and failed is subscribed to again", async () => {
  const { from, to, seen, channels, send, answered } = setUp();
  answered(send(new Command("ssubscribe", ["news"]), from.node));
  const again = send(new Command("ssubscribe", ["news"]), to.node);
  again.reject(new Error("lost"));
  await assert.rejects(again.promise as Promise<unknown>, /lost/);
  await eventually(() => seen.gaps.length === 1 && channels.isComplete);
  assert.deepEqual(to.asked, ["ssubscribe news"]);
});

test("a channel whose second SUBSCRIBE went to the same node and failed stays as it is", async () => {
  const { from, to, channels, send, answered } = setUp();
  answered(send(new Command("ssubscribe", ["news"]), from.node));
  const again = send(new Command("ssubscribe", ["news"]), from.node);
  again.reject(new Error("lost"));
  await assert.rejects(again.promise as Promise<unknown>, /lost/);
  assert.equal(channels.isComplete, true);
  assert.deepEqual(to.asked, []);
});

test("a refusal is logged once for each channel, by its code", async () => {
  const { from, to, seen, channels, send, answered } = setUp();
  answered(send(new Command("ssubscribe", ["news"]), from.node));
  to.refusal = refusal();
  from.redis.emit("moved");
  await eventually(() => to.asked.length === 2, 20_000);
  to.refusal = undefined;
  await eventually(() => channels.isComplete, 20_000);
  assert.deepEqual(seen.warned, [["a subscription is refused", { name: "test", code: "NOPERM" }]]);
});

test("a refused channel is not asked for any more, unless it was confirmed or another command asks for it", async () => {
  const { from, asked, send, answered } = setUp();
  const subscribe = (): Command => send(new Command("subscribe", ["news"]), from.node);
  const [first, second] = [subscribe(), subscribe()];
  refuse(first);
  assert.equal(asked.all.length, 1);
  refuse(second);
  assert.deepEqual(asked.all, []);
  answered(subscribe());
  refuse(subscribe());
  assert.equal(asked.confirmed.length, 1);
});

function refusal(): Error {
  return Object.assign(new Error("NOPERM No permissions to access a channel"), { name: "ReplyError" });
}

function refuse(command: Command): void {
  command.reject(refusal());
  command.promise.catch(() => {});
}
