import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { test } from "node:test";
import { Command } from "ioredis";
import type { ClusterNodes, Node } from "../src/common/cluster-nodes.js";
import { ClusterShards } from "../src/common/cluster-shards.js";
import type { Handle } from "../src/common/handle.js";
import type { SlotMap } from "../src/common/slot-map.js";
import { eventually, gate } from "./support/gate.js";

/** The node's part in what happens between a subscription and its note, which no real one can be made to play in time. */
class Fake {
  readonly redis = Object.assign(new EventEmitter(), {
    own: async (...args: string[]): Promise<void> => {
      this.asked.push(args.join(" "));
      await this.answers;
    },
  });
  readonly asked: string[] = [];
  answers: Promise<void> | undefined;

  get node(): Node {
    return this as unknown as Node;
  }

  get client(): object {
    return { redis: this.redis, connect: async () => {}, isAlive: () => true };
  }
}

function setUp() {
  const [from, to] = [new Fake(), new Fake()];
  const seen = { messages: [] as unknown[][], left: [] as unknown[], moved: 0 };
  const redis = new EventEmitter().on("smessage", (...message: unknown[]) => void seen.messages.push(message));
  const nodes = {
    at: () => to,
    isIn: () => true,
    leave: (node: unknown, { handingOver }: { handingOver: boolean }) => void seen.left.push([node, handingOver]),
    refresh: () => {},
  };
  const shards = new ClusterShards({
    redis: redis as unknown as Handle,
    nodes: nodes as unknown as ClusterNodes,
    slots: { owner: () => ({}) } as unknown as SlotMap,
    life: new AbortController().signal,
    learn: () => assert.fail("nothing fails here"),
    onMoved: () => seen.moved++,
  });
  const command = new Command("ssubscribe", ["news"]);
  shards.handed(command, from.node);
  return { from, to, seen, shards, command };
}

test("a slot given up before its subscription is noted, or while that is made anew, is subscribed where it is then", async () => {
  const { from, to, seen, shards, command } = setUp();
  from.redis.emit("moved");
  const answers = gate();
  to.answers = answers.promise;
  shards.answered(command);
  await eventually(() => to.asked.length === 1);
  to.redis.emit("moved");
  answers.open();
  await eventually(() => seen.moved > 0);
  assert.deepEqual(to.asked, ["ssubscribe news", "ssubscribe news"]);
});

test("a node that was lost and comes back is heard once", async () => {
  const { from, seen, shards, command } = setUp();
  shards.answered(command);
  shards.lost(from.node);
  await eventually(() => seen.moved === 1);
  shards.handed(new Command("ssubscribe", ["weather"]), from.node);
  from.redis.emit("smessage", "weather", "rain");
  assert.deepEqual(seen.messages, [["weather", "rain"]]);
});

test("for the next holder nothing is subscribed, and who was asked for a subscription is left", async () => {
  const { from, to, seen, shards, command } = setUp();
  shards.answered(command);
  shards.reset();
  assert.deepEqual(seen.left, [[from, false]]);
  shards.lost(from.node);
  await new Promise(setImmediate);
  assert.deepEqual([to.asked, seen.moved], [[], 0]);
});
