import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { test } from "node:test";
import { Command } from "ioredis";
import { type AskedChannel, AskedChannels } from "../../src/commands/asked-channels.js";
import { ClusterChannels } from "../../src/cluster/channels.js";
import type { ClusterNodes, Node } from "../../src/cluster/nodes.js";
import type { Handle } from "../../src/commands/handle.js";
import type { SlotMap } from "../../src/cluster/slot-map.js";
import { eventually, gate } from "../support/gate.js";

/** The node's part in what happens between a subscription and its answer, which no real one can be made to play in time. */
class Fake {
  readonly redis = Object.assign(new EventEmitter(), {
    isSubscribedTo: ({ channel }: AskedChannel) => this.kept.includes(channel),
  });
  readonly asked: string[] = [];
  /** After it has given up a slot. */
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
    refresh: () => {},
  };
  const asked = new AskedChannels();
  const channels = new ClusterChannels({
    redis: redis as unknown as Handle,
    asked,
    nodes: nodes as unknown as ClusterNodes,
    slots: { owner: () => ({}) } as unknown as SlotMap,
    life: new AbortController().signal,
    answerMs: 10_000,
    logger: { ...console, warn: (message, fields) => void seen.warned.push([message, fields]) },
    name: "test",
    learn: () => undefined,
    onResubscribed: ({ channel }) => seen.gaps.push(channel),
  });
  const send = (command: Command, node: Node): Command => {
    asked.sent(command);
    channels.handed(command, node);
    return command;
  };
  const answered = (command: Command): void => {
    command.resolve(1);
    channels.look(asked.of(command));
  };
  return { from, to, seen, asked, channels, send, answered };
}

test("a slot given up before its subscription is answered, or while that is made anew, is subscribed where it is then", async () => {
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
  channels.lost(to.node); // its QUIT comes behind the SSUBSCRIBE, which it answers
  answers.open();
  await eventually(() => channels.isComplete);
  assert.deepEqual(to.asked, ["ssubscribe news", "ssubscribe news"]);
});

test("a node that was lost and comes back is heard once, and one that is left no more", async () => {
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

test("for the next holder nothing is subscribed, and every node that was asked for a subscription is left", async () => {
  const { from, to, seen, channels, send, answered } = setUp();
  answered(send(new Command("ssubscribe", ["news"]), from.node));
  channels.reset();
  assert.deepEqual(seen.left, [[from, false]]);
  channels.lost(from.node);
  await new Promise(setImmediate);
  assert.deepEqual([to.asked, seen.gaps], [[], []]);
});

test("a slot that is given up concerns its own channels only", async () => {
  const { from, to, seen, channels, send, answered } = setUp();
  answered(send(new Command("ssubscribe", ["here", "moved"]), from.node));
  answered(send(new Command("subscribe", ["plain"]), from.node));
  answered(send(new Command("psubscribe", ["pla*"]), from.node));
  from.kept = ["here"];
  from.redis.emit("moved");
  await eventually(() => seen.gaps.length > 0 && channels.isComplete);
  assert.deepEqual([to.asked, seen.gaps], [["ssubscribe moved"], ["moved"]]);
});

test("a channel that is asked for again elsewhere, in vain, is looked for", async () => {
  const { from, to, seen, channels, send, answered } = setUp();
  answered(send(new Command("ssubscribe", ["news"]), from.node));
  const again = send(new Command("ssubscribe", ["news"]), to.node);
  again.reject(new Error("lost"));
  await assert.rejects(again.promise as Promise<unknown>, /lost/);
  await eventually(() => seen.gaps.length === 1 && channels.isComplete);
  assert.deepEqual(to.asked, ["ssubscribe news"]);
});

test("a channel that stays where it is, for it was asked for again there in vain, is not looked for", async () => {
  const { from, to, channels, send, answered } = setUp();
  answered(send(new Command("ssubscribe", ["news"]), from.node));
  const again = send(new Command("ssubscribe", ["news"]), from.node);
  again.reject(new Error("lost"));
  await assert.rejects(again.promise as Promise<unknown>, /lost/);
  assert.equal(channels.isComplete, true);
  assert.deepEqual(to.asked, []);
});

test("a refusal is told once for each channel, by its code", async () => {
  const { from, to, seen, channels, send, answered } = setUp();
  answered(send(new Command("ssubscribe", ["news"]), from.node));
  to.refusal = refusal();
  from.redis.emit("moved");
  await eventually(() => to.asked.length === 2, 20_000);
  to.refusal = undefined;
  await eventually(() => channels.isComplete, 20_000);
  assert.deepEqual(seen.warned, [["a subscription is refused", { name: "test", code: "NOPERM" }]]);
});

test("what was refused is not asked for any more, unless it was confirmed or another command asks for it", async () => {
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
