import assert from "node:assert/strict";
import { test } from "node:test";
import { blockLater } from "../support/block.js";
import { slotOf } from "../support/cluster.js";
import { connected } from "../support/clustered.js";
import { rejection } from "../support/make-client.js";
import type { RedisServer } from "../support/redis-server.js";

const LIMIT = { timeout: 120_000 };

/** The error says that the command did not run, by a code of this library, and why. */
function assertNotFollowed(error: (Error & { code?: string; outcome?: string }) | undefined, why: RegExp): void {
  assert.deepEqual([error?.code, error?.outcome], ["REDTHREAD_NOT_SENT", "not-sent"], String(error));
  assert.match(String(error?.cause), why);
}

test(
  "a redirection that comes too late, goes round in a circle or leads to a dead node is NOT_SENT, never MOVED or ASK",
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

test(
  "in a pipeline MOVED and ASK are the replies of commands that did not run; a single command follows them",
  LIMIT,
  async (t) => {
    const [redis, cluster] = await connected(t);
    const [a, b, c] = cluster.masters as [RedisServer, RedisServer, RedisServer];
    const [moved, moving] = [cluster.keyOn(0, "moved"), cluster.keyOn(0, "moving")];
    const [gone, there, fresh] = ["gone", "there", "fresh"].map((name) => `{${moving}}${name}`) as [
      string,
      string,
      string,
    ];
    await Promise.all([moved, gone, there].map((key) => redis.set(key, "1")));
    await cluster.beginMove(moving, a, c);
    await a.admin.call("MIGRATE", "127.0.0.1", c.port, "", 0, 5_000, "KEYS", gone);
    for (const { id, cmd } of await c.clients()) if (cmd === "restore-asking") await c.admin.client("KILL", "ID", id);
    await cluster.moveSlot(moved, a, b);

    const ask = [moved, gone, there, fresh].reduce((pipeline, key) => pipeline.incr(key), redis.pipeline());
    assert.deepEqual(codes(await ask.exec()), ["MOVED", "ASK", 2, "ASK"]);
    assert.deepEqual(codes(await redis.pipeline().incr(there).incr(gone).exec()), [3, "ASK"]);
    const transaction = await rejection(redis.multi().incr(gone).incr(there).exec());
    assert.match(String(transaction), /EXECABORT/);
    assert.deepEqual(await Promise.all([moved, gone, there, fresh].map((key) => redis.incr(key))), [2, 2, 4, 1]);

    await cluster.moveSlot(moving, a, c);
    assert.deepEqual(codes(await redis.pipeline().incr(gone).incr(there).exec()), ["MOVED", "MOVED"]);
    assert.deepEqual(codes(await redis.pipeline().incr(gone).incr(there).exec()), [3, 5]);
  },
);

/** For each entry of a pipeline its reply, or the first word of its error. */
function codes(entries: [Error | null, unknown][] | null): unknown[] {
  return entries!.map(([error, reply]) => (error ? error.message.split(" ", 1)[0] : reply));
}
