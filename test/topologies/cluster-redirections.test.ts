import assert from "node:assert/strict";
import { test } from "node:test";
import { blockLater } from "../support/block.js";
import { slotOf } from "../support/cluster.js";
import { connected } from "../support/clustered.js";
import { rejection } from "../support/make-client.js";
import type { RedisServer } from "../support/redis-server.js";

const LIMIT = { timeout: 120_000 };

/** Did not run, says so in words that its caller knows, and why. */
function assertNotFollowed(error: (Error & { code?: string; outcome?: string }) | undefined, why: RegExp): void {
  assert.deepEqual([error?.code, error?.outcome], ["REDTHREAD_NOT_SENT", "not-sent"], String(error));
  assert.match(String(error?.cause), why);
}

test(
  "a node that is named too late, or in a circle, or is dead, is NOT_SENT and never MOVED or ASK",
  LIMIT,
  async (t) => {
    const [redis, cluster] = await connected(t, {}, { commandTimeoutMs: 1_000 });
    const [a, b, c] = cluster.masters as [RedisServer, RedisServer, RedisServer];
    const [late, circle, asked] = [0, 1, 2].map((i) => cluster.keyOn(0, `key${i}`)) as [string, string, string];
    await redis.get(late);

    await cluster.moveSlot(late, a, b);
    const tooLate = rejection(redis.set(late, "x"));
    await blockLater(1_500);
    assertNotFollowed(await tooLate, /MOVED/);
    assert.equal(await redis.set(late, "y"), "OK");

    const [idOfA, idOfB] = await Promise.all([a, b].map(({ admin }) => admin.cluster("MYID")));
    await a.admin.cluster("SETSLOT", slotOf(circle), "NODE", String(idOfB));
    await b.admin.cluster("SETSLOT", slotOf(circle), "NODE", String(idOfA));
    assertNotFollowed(await rejection(redis.set(circle, "x")), /MOVED/);
    assertNotFollowed(await rejection(redis.watch(circle)), /MOVED/);

    await cluster.allowPartial();
    await cluster.beginMove(asked, a, c);
    await c.kill();
    assertNotFollowed(await rejection(redis.set(asked, "x")), /ASK/);
    await c.start();
  },
);
