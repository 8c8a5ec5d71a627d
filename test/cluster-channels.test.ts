import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { test } from "node:test";
import { Command } from "ioredis";
import { type AskedChannel, AskedChannels } from "../src/common/asked-channels.js";
import { ClusterChannels } from "../src/common/cluster-channels.js";
import type { ClusterNodes, Node } from "../src/common/cluster-nodes.js";
import type { Handle } from "../src/common/handle.js";
import type { SlotMap } from "../src/common/slot-map.js";
import { eventually, gate } from "./support/gate.js";

/** The node's part in what happens between a subscription and its answer, which no real one can be made to play in time. */
class Fake {
  readonly redis = Object.assign(new EventEmitter(), {
    subscribeAgain: async ({ by, channel }: AskedChannel, onStands: () => void): Promise<void> => {
      this.asked.push(`${by} ${String(channel)}`);
      await this.answers;
      onStands();
    },
  });
  readonly asked: string[] = [];
  isIn = true;
  answers: Promise<void> | undefined;

  get node(): Node {
    return this as unknown as Node;
  }

  get client(): object {
    return { redis: this.redis, connect: async () => {} };
  }
}

function setUp() {
  const [from, to] = [new Fake(), new Fake()];
  const seen = { messages: [] as unknown[][], left: [] as unknown[], gaps: [] as unknown[] };
  const redis = new EventEmitter().on("smessage", (...message: unknown[]) => void seen.messages.push(message));
  const nodes = {
    at: () => to,
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
    learn: () => assert.fail("nothing fails here"),
    onResubscribed: ({ channel }) => seen.gaps.push(channel),
  });
  const send = (command: Command, node: Node): Command => {
    asked.sent(command);
    channels.handed(command, node);
    return command;
  };
  const answered = (command: Command): void => {
    command.resolve(1);
    channels.look();
  };
  return { from, to, seen, channels, send, answered };
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
