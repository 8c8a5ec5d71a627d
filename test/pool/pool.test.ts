import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { test } from "node:test";
import { Redis } from "ioredis";
import { AuthFailedError, type AcquireTimeoutError } from "../../src/core/errors.js";
import { ClientPool, type Lease, type PoolFactory } from "../../src/pool/pool.js";
import { poolOf, stopTimers, turns, use, type Fake, type FakePool } from "../support/fake-pool.js";
import { eventually, gate } from "../support/gate.js";
import { leakCheck } from "../support/leak-check.js";
import { startRedis } from "../support/redis-server.js";

const refused = (): Promise<never> => Promise.reject(new Error("ECONNREFUSED"));

test("a server that refuses is dialled again with pauses, and the waiter is told why", async (t) => {
  const { pool, fakes } = poolOf(t, { acquireTimeoutMs: 100 });
  fakes.onOpen = refused;
  await assert.rejects(pool.acquire(), (error: AcquireTimeoutError & { phase?: string }) => {
    assert.equal(error.code, "REDTHREAD_ACQUIRE_TIMEOUT");
    assert.equal(error.phase, "connect");
    assert.match(error.message, /no fake within 100 ms \(phase: connect; 0\/4 out, 0 idle, 1 waiting\)/);
    assert.match(String(error.cause), /ECONNREFUSED/);
    return true;
  });
  assert.ok(fakes.dials >= 2 && fakes.dials < 60, `${fakes.dials} dials in 100 ms with pauses of 5 ms`);
});

test("pauses double up to their cap, and are jittered there too", async (t) => {
  let random = 1;
  const retry = { baseDelayMs: 10, maxDelayMs: 40 };
  const clockless = { random: () => random, retry };
  const { pool, fakes, clock } = poolOf(t, clockless);
  fakes.onOpen = (dial) => (dial <= 6 ? refused() : undefined);
  const pass = stopTimers(t, clock);
  const leased = pool.acquire();
  for (const [dials, pauseMs] of [10, 20, 40, 40].entries()) {
    await pass(0);
    assert.equal(fakes.dials, dials + 1);
    await pass(pauseMs - 1);
    assert.equal(fakes.dials, dials + 1, `not before ${pauseMs} ms`);
    if (dials === 3) random = 0.5;
    await pass(1);
  }
  await pass(19);
  assert.equal(fakes.dials, 5);
  await pass(1);
  assert.equal(fakes.dials, 6, "half the cap, by jitter");
  await pass(20);
  await (await leased).release();
});

test("a client dead on arrival counts as a failure, and does not end the pauses", async (t) => {
  const { pool, fakes } = poolOf(t, { acquireTimeoutMs: 100 });
  fakes.onIsAlive = () => false;
  await assert.rejects(pool.acquire(), (error: Error) => /dead on arrival/.test(String(error.cause)));
  assert.ok(fakes.dials >= 2 && fakes.dials < 60, `${fakes.dials} dials in 100 ms with pauses of 5 ms`);
});

test("an open that throws costs no waiter its client", async (t) => {
  const { pool, fakes } = poolOf(t, { max: 1 });
  fakes.onOpen = (dial) => {
    if (dial === 1) throw new Error("thrown, not rejected");
  };
  const [first, second] = [pool.acquire(), pool.acquire()];
  await (await first).release();
  await (await second).release();
  assert.equal(fakes.dials, 2);
});

test("a hung open costs neither the budget of the next waiter nor a place, and its client is closed when it arrives late", async (t) => {
  const { pool, fakes } = poolOf(t, { max: 1, acquireTimeoutMs: 60, retry: { baseDelayMs: 1, maxDelayMs: 1 } });
  const hung = gate();
  let given: AbortSignal | undefined;
  fakes.onOpen = (dial, signal) => {
    if (dial === 1) given = signal;
    return dial === 1 ? hung.promise : undefined;
  };
  await assert.rejects(pool.acquire(), { code: "REDTHREAD_ACQUIRE_TIMEOUT", phase: "connect" });
  await eventually(() => given?.aborted === true, 5_000, "the signal of the abandoned attempt is aborted");
  const lease = await eventually(() => pool.acquire());
  hung.open();
  await eventually(() => fakes.opened.length === 2 && fakes.living.length === 1, 5_000, "the late client is closed");
  assert.equal(lease.client.isClosed, false);
  await lease.release();
});

for (const [how, answer] of [
  ["rejects", () => Promise.reject(new Error("no PONG"))],
  ["throws", () => assert.fail("no PONG")],
  ["stays silent", () => gate().promise],
  ["says undefined", () => undefined],
] as const) {
  test(`a check that ${how} costs that client, and the waiter gets the next one within the same budget`, async (t) => {
    const { pool, fakes, clock } = poolOf(t, { max: 2, judgeMs: 20 });
    const [good, bad] = await Promise.all([pool.acquire(), pool.acquire()]);
    await good.release();
    await bad.release();
    clock.ms += 501;
    fakes.onCheck = (client) => client !== bad.client || answer();
    const lease = await pool.acquire();
    assert.equal(lease.client, good.client);
    await eventually(() => bad.client.isClosed, 5_000, "the client that failed its check is closed");
    // both places are still there
    const other = await pool.acquire();
    assert.equal(other.client.id, 3);
    assert.deepEqual(pool.stats(), { out: 2, idle: 0, waiting: 0, max: 2 });
    await Promise.all([lease.release(), other.release()]);
  });
}

/** Counts only timers that keep the process alive. */
function count(kind: "Timeout" | "Immediate"): number {
  return process.getActiveResourcesInfo().filter((name) => name === kind).length;
}

test("a waiter that was served leaves no timer that keeps the process alive", async (t) => {
  const { pool } = poolOf(t, { max: 1 });
  const before = count("Timeout");
  const first = await pool.acquire();
  const waiting = [pool.acquire(), pool.acquire()];
  assert.equal(count("Timeout"), before + 1);
  await first.release();
  for (const lease of waiting) await (await lease).release();
  assert.equal(count("Timeout"), before);
});

test("a client is checked only after idleness, and not at all if it is known to be dead", async (t) => {
  const { pool, fakes, clock } = poolOf(t, { max: 1 });
  const checked: number[] = [];
  fakes.onCheck = (client) => checked.push(client.id) > 0;
  const idOf = () => use(pool, async (client) => client.id);
  assert.equal(await idOf(), 1);
  clock.ms += 500;
  assert.equal(await idOf(), 1);
  assert.deepEqual(checked, []);
  clock.ms += 501;
  assert.equal(await idOf(), 1);
  assert.deepEqual(checked, [1]);
  clock.ms += 501;
  fakes.opened[0]!.isAlive = false;
  assert.equal(await idOf(), 2);
  assert.deepEqual(checked, [1]);
});

test("a client whose waiter left during the check is not checked again at once", async (t) => {
  const { pool, fakes, clock } = poolOf(t, { max: 1 });
  await use(pool, nothing);
  await turns();
  clock.ms += 501;
  const answered = gate<boolean>();
  let checks = 0;
  fakes.onCheck = () => ++checks && answered.promise;
  const { signal, abort } = stopper();
  const waiting = assert.rejects(pool.acquire(signal));
  await turns();
  abort(new Error("changed my mind"));
  await waiting;
  answered.open(true);
  await turns();
  await use(pool, nothing);
  assert.equal(checks, 1);
});

test("close ends on time with a lease that never comes back, and closes its client", async (t) => {
  const { pool, fakes } = poolOf(t, { max: 1 });
  const lease = await pool.acquire();
  const waiting = assert.rejects(pool.acquire(), { code: "REDTHREAD_SHUTTING_DOWN" });
  const closing = pool.close(20);
  assert.equal(pool.close(5_000), closing);
  await waiting;
  await assert.rejects(pool.acquire(), { code: "REDTHREAD_SHUTTING_DOWN" });
  await closing;
  assert.equal(lease.client.isClosed, true);
  await lease.release();
  assert.deepEqual(pool.stats(), { out: 0, idle: 0, waiting: 0, max: 1 });
  assert.equal(fakes.dials, 1);
});

test("after close a dead server is not dialled any more", async (t) => {
  const { pool, fakes, clock } = poolOf(t);
  fakes.onOpen = refused;
  const pass = stopTimers(t, clock);
  const waiting = assert.rejects(pool.acquire(), { code: "REDTHREAD_SHUTTING_DOWN" });
  await pass(0);
  await pool.close(1_000);
  await waiting;
  const { dials } = fakes;
  await pass(60_000);
  assert.equal(fakes.dials, dials);
});

test("close waits for a lease that comes back, and aborts a dial in progress", async (t) => {
  const { pool, fakes } = poolOf(t);
  const lease = await pool.acquire();
  const dialled = gate<AbortSignal>();
  fakes.onOpen = (_dial, signal) => {
    dialled.open(signal);
    return new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
  };
  const waiting = assert.rejects(pool.acquire(), { code: "REDTHREAD_SHUTTING_DOWN" });
  const signal = await dialled.promise;
  const closing = pool.close(60_000);
  await waiting;
  assert.equal(signal.aborted, true);
  assert.equal(lease.client.isClosed, false, "a lease keeps its client until its time is over");
  const reset = t.mock.method(fakes, "reset");
  await lease.release();
  await closing;
  assert.equal(lease.client.isClosed, true);
  assert.equal(reset.mock.callCount(), 0);
});

test("close ends although a client's close hangs and a dial ignores its signal", async (t) => {
  const { pool, fakes } = poolOf(t, { judgeMs: 20 });
  const lease = await pool.acquire();
  const [stuck, hung, dialled] = [gate(), gate(), gate()];
  fakes.onClose = () => stuck.promise;
  fakes.onOpen = () => (dialled.open(), hung.promise);
  const waiting = assert.rejects(pool.acquire(), { code: "REDTHREAD_SHUTTING_DOWN" });
  await dialled.promise;
  const closing = pool.close(10);
  await Promise.all([waiting, closing]);
  await lease.release();
  hung.open();
  stuck.open();
  await eventually(() => fakes.opened.length === 2 && fakes.living.length === 0, 5_000, "both are closed in the end");
});

test("close closes a client at once that arrives, passes its check or comes back at the same moment", async (t) => {
  const moments: Array<(made: FakePool, arrival: Promise<void>) => Promise<void>> = [
    ({ pool, fakes }, arrival) => {
      fakes.onOpen = () => arrival;
      return use(pool, nothing);
    },
    async ({ pool, fakes, clock }, arrival) => {
      await use(pool, nothing);
      clock.ms += 501;
      fakes.onCheck = () => arrival.then(() => true);
      return use(pool, nothing);
    },
    ({ pool, fakes }, arrival) => {
      fakes.onReset = () => arrival.then(() => true);
      return use(pool, nothing);
    },
    // a dial whose waiter got another client meanwhile
    async ({ pool, fakes }, arrival) => {
      const holder = await pool.acquire();
      fakes.onOpen = () => arrival;
      const used = use(pool, nothing);
      await turns(1);
      await holder.release();
      return used;
    },
  ];
  for (const moment of moments) {
    for (let ticks = 0; ticks < 16; ticks++) {
      const made = poolOf(t);
      const arrival = gate();
      const used = moment(made, arrival.promise).then(
        () => "served",
        (error: { code?: string }) => error.code,
      );
      await turns(2);
      arrival.open();
      for (let i = 0; i < ticks; i++) await Promise.resolve();
      const closed = made.pool.close(10_000).then(() => true);
      await eventually(() => closed, 5_000, `closed, ${ticks} microtasks after moment ${moments.indexOf(moment)}`);
      assert.equal(made.fakes.living.length, 0);
      assert.match(String(await used), /served|REDTHREAD_SHUTTING_DOWN/);
    }
  }
});

test("under random faults no client is handed out closed, dead or twice, and there are never more than max", async (t) => {
  const { pool, fakes } = poolOf(t, { max: 3, retry: { baseDelayMs: 0, maxDelayMs: 0 } });
  let seed = 42;
  const chance = (share: number): boolean => (seed = (seed * 48_271) % 2_147_483_647) / 2_147_483_647 < share;
  fakes.onOpen = async () => {
    await turns(1);
    if (chance(0.1)) throw new Error("refused");
  };
  fakes.onClose = () => turns(chance(0.5) ? 3 : 0);
  fakes.onReset = async () => !chance(0.1);
  const held = new Set<Fake>();
  await Promise.all(
    Array.from({ length: 600 }, async () => {
      const lease = await pool.acquire();
      const { client } = lease;
      assert.ok(!client.isClosed && client.isAlive && !held.has(client));
      held.add(client);
      await turns(1);
      if (chance(0.1)) client.isAlive = false;
      held.delete(client);
      const back = chance(0.1) ? lease.destroy() : lease.release();
      if (chance(0.2)) await Promise.all([lease.release(), lease.destroy()]);
      await back;
    }),
  );
  assert.equal(fakes.peak, 3);
  const { out, waiting } = pool.stats();
  assert.deepEqual({ out, waiting }, { out: 0, waiting: 0 });
});

test("nothing is opened before a caller waits, or after the last one has left", async (t) => {
  const { pool, fakes, clock } = poolOf(t);
  const pass = stopTimers(t, clock);
  await pass(60_000);
  assert.equal(fakes.dials, 0);
  fakes.onOpen = refused;
  const { signal, abort } = stopper();
  const waiting = assert.rejects(pool.acquire(signal), /enough/);
  await pass(0);
  assert.equal(fakes.dials, 1);
  abort(new Error("enough"));
  await waiting;
  await pass(60_000);
  assert.equal(fakes.dials, 1);
});

test("the evictor goes on after a close that throws and an isAlive that throws", async (t) => {
  const { pool, fakes, clock } = poolOf(t, { idleTimeoutMs: 10 });
  const ask = fakes.onIsAlive;
  for (const spoil of [
    () => (fakes.onClose = () => assert.fail("close throws")),
    () => (fakes.onIsAlive = () => assert.fail("isAlive throws")),
    () => undefined,
  ]) {
    await (await pool.acquire()).release();
    spoil();
    clock.ms += 11;
    await eventually(() => pool.stats().idle === 0, 5_000, "the idle client is evicted");
    fakes.onIsAlive = ask;
    for (const client of fakes.opened) client.isClosed = true;
  }
});

test("a pool at rest does not keep its process alive", async (t) => {
  const before = timersHoldingOn();
  const { pool } = poolOf(t);
  await (await pool.acquire()).release();
  assert.equal(timersHoldingOn(), before);
});

test("a client being closed counts in max until its socket is gone", async (t) => {
  const { pool, fakes, clock } = poolOf(t, { max: 1, idleTimeoutMs: 10 });
  const ways: Array<(lease: Lease<Fake>) => unknown> = [
    (lease) => lease.destroy(),
    async (lease) => {
      await lease.release();
      clock.ms += 11;
      await eventually(() => pool.stats().idle === 0, 5_000, "evicted");
    },
  ];
  for (const leave of ways) {
    const lease = await pool.acquire();
    const closed = gate();
    fakes.onClose = () => closed.promise;
    await leave(lease);
    const { dials } = fakes;
    const next = pool.acquire();
    await turns();
    assert.equal(fakes.dials, dials, "not dialled while the old socket is there");
    closed.open();
    await (await next).release();
    assert.equal(fakes.dials, dials + 1);
  }
  assert.equal(fakes.peak, 1);
});

test("a dead idle client is removed before a caller asks for it", async (t) => {
  const { pool, fakes } = poolOf(t, { idleTimeoutMs: 10 });
  const lease = await pool.acquire();
  await lease.release();
  lease.client.isAlive = false;
  await eventually(() => lease.client.isClosed, 5_000, "the dead client is closed");
  assert.equal(fakes.dials, 1);
});

test("a client past its lifetime is closed on return or while it is idle, never in use", async (t) => {
  const lifetimes = [1, 0, 0.5];
  const { pool, fakes, clock } = poolOf(t, { maxLifetimeMs: 20, random: () => lifetimes.shift() ?? 1, max: 3 });
  const seen = new Map<Fake, number>();
  fakes.onIsAlive = (client) => {
    seen.set(client, (seen.get(client) ?? 0) + 1);
    return true;
  };
  const [whole, short, half] = [await pool.acquire(), await pool.acquire(), await pool.acquire()];
  await half.release();
  clock.ms = 17.4;
  await short.release();
  assert.equal(short.client.isClosed, true, "75 % of 20 ms are over");
  // The evictor looks only at the idle client, and keeps it.
  const asked = seen.get(half.client)!;
  const askedOut = seen.get(whole.client);
  await eventually(() => seen.get(half.client)! > asked + 3, 5_000, "the evictor has run");
  assert.equal(half.client.isClosed, false);
  clock.ms = 17.5;
  await eventually(() => half.client.isClosed, 5_000, "87.5 % of 20 ms are over");
  clock.ms = 60;
  await turns();
  assert.equal(whole.client.isClosed, false);
  assert.equal(seen.get(whole.client), askedOut);
  await whole.release();
  assert.equal(whole.client.isClosed, true);
});

test("a lease can be given back twice without touching its client's next holder", async (t) => {
  const { pool } = poolOf(t, { max: 1 });
  const first = await pool.acquire();
  await Promise.all([first.release(), first.release()]);
  const second = await pool.acquire();
  assert.equal(second.client, first.client);
  await Promise.all([first.release(), first.destroy(), first[Symbol.asyncDispose]()]);
  assert.equal(second.client.isClosed, false);
  assert.deepEqual(pool.stats(), { out: 1, idle: 0, waiting: 0, max: 1 });
  await second.release();
});

test("the client that was returned last goes out first, and the others are evicted", async (t) => {
  const { pool, fakes, clock } = poolOf(t, { max: 3, idleTimeoutMs: 20 });
  const leases = await Promise.all([pool.acquire(), pool.acquire(), pool.acquire()]);
  for (const lease of leases) await lease.release();
  const last = leases.at(-1)!.client;
  for (let i = 0; i < 3; i++) {
    clock.ms += 7;
    await use(pool, async (client) => assert.equal(client, last));
  }
  await eventually(() => fakes.living.length === 1, 5_000, "the other two are evicted");
  assert.equal(last.isClosed, false);
});

test("an abort frees the waiter, and the dial in progress serves the next one", async (t) => {
  const { pool, fakes } = poolOf(t);
  const connected = gate();
  fakes.onOpen = () => connected.promise;
  const { signal, abort } = stopper();
  const reason = new Error("changed my mind");
  const waiting = pool.acquire(signal);
  await turns();
  abort(reason);
  await assert.rejects(waiting, reason);
  assert.equal(pool.stats().waiting, 0);
  await assert.rejects(pool.acquire(signal), reason);
  const next = pool.acquire();
  connected.open();
  await (await next).release();
  assert.equal(fakes.dials, 1);
});

test("a signal that never fires is left with no listener", async (t) => {
  const { pool } = poolOf(t);
  const { signal } = stopper();
  await use(pool, async (client) => assert.ok(client), signal);
  assert.equal(getEventListeners(signal, "abort").length, 0);
});

test("an abort at the very moment when the waiter is served loses no client", async (t) => {
  const { pool, fakes } = poolOf(t, { max: 1 });
  for (let ticks = 0; ticks < 12; ticks++) {
    const holder = await pool.acquire();
    const { signal, abort } = stopper();
    const waiting = pool.acquire(signal).then((lease) => lease.release(), String);
    const back = holder.release();
    for (let i = 0; i < ticks; i++) await Promise.resolve();
    abort(new Error("now"));
    await Promise.all([back, waiting]);
    await turns();
    assert.deepEqual(pool.stats(), { out: 0, idle: 1, waiting: 0, max: 1 });
  }
  assert.equal(fakes.dials, 1);
});

for (const [how, answer] of [
  ["says false", async () => false],
  ["rejects", () => Promise.reject(new Error("RESET failed"))],
  ["throws", () => assert.fail("RESET failed")],
  ["stays silent", () => gate().promise],
] as const) {
  test(`a client whose reset ${how} on return is closed, and its holder sees no error`, async (t) => {
    const { pool, fakes } = poolOf(t, { max: 1, judgeMs: 20 });
    fakes.onReset = answer;
    const lease = await pool.acquire();
    await lease.release();
    await eventually(() => lease.client.isClosed);
    fakes.onReset = () => true;
    assert.equal(await use(pool, async (client) => client.id), 2);
  });
}

test("the reset of a client that comes back is told whether a caller waits", async (t) => {
  const { pool, fakes } = poolOf(t, { max: 1 });
  const awaited: boolean[] = [];
  fakes.onReset = (_, isAwaited) => awaited.push(isAwaited) > 0;
  const first = await pool.acquire();
  const second = pool.acquire();
  await first.release();
  await (await second).release();
  assert.deepEqual(awaited, [true, false]);
});

test("a client that died in use is closed on return without a reset", async (t) => {
  const { pool, fakes } = poolOf(t);
  fakes.onReset = () => assert.fail("a dead client was reset");
  const lease = await pool.acquire();
  lease.client.isAlive = false;
  await lease.release();
  await eventually(() => lease.client.isClosed);
});

test("a caller in the turn in which a client came back gets it before a microtask is over", async (t) => {
  const { pool, fakes } = poolOf(t);
  const first = await pool.acquire();
  await first.release();
  assert.deepEqual(pool.stats(), { out: 0, idle: 1, waiting: 0, max: 4 });
  const again = pool.acquire();
  assert.deepEqual(pool.stats(), { out: 1, idle: 0, waiting: 0, max: 4 });
  assert.equal((await again).client, first.client);
  await first.release(); // this lease was given back before
  assert.deepEqual(pool.stats(), { out: 1, idle: 0, waiting: 0, max: 4 });
  await (await again).release();
  assert.equal(fakes.dials, 1);
});

test("of the clients that come back in one turn the last goes out first, then the one before it", async (t) => {
  const { pool } = poolOf(t, { max: 3 });
  const leases = await Promise.all([pool.acquire(), pool.acquire(), pool.acquire()]);
  for (const lease of leases) await lease.release();
  const again = [await pool.acquire(), await pool.acquire(), await pool.acquire()];
  assert.deepEqual(
    again.map(({ client }) => client),
    leases.map(({ client }) => client).toReversed(),
  );
  for (const lease of again) await lease.release();
});

test("a client that died in the turn in which it came back is not handed out", async (t) => {
  const { pool, fakes } = poolOf(t, { max: 1 });
  const lease = await pool.acquire();
  await lease.release();
  lease.client.isAlive = false;
  assert.equal(await use(pool, async (client) => client.id), 2);
  assert.equal(lease.client.isClosed, true);
  assert.equal(fakes.dials, 2);
});

test("after a long turn a client that came back in it is checked as well", async (t) => {
  const { pool, fakes, clock } = poolOf(t, { max: 1 });
  const checked: number[] = [];
  fakes.onCheck = (client) => checked.push(client.id) > 0;
  await use(pool, nothing);
  clock.ms += 501;
  await use(pool, nothing);
  assert.deepEqual(checked, [1]);
});

test("a connection that is needed elsewhere is closed even in the turn in which it came back, and not handed out", async (t) => {
  const { pool, fakes } = poolOf(t, { max: 1 });
  const lease = await pool.acquire();
  await lease.release();
  pool.giveUpIdle();
  assert.equal(await use(pool, async (client) => client.id), 2);
  assert.equal(lease.client.isClosed, true);
  await turns();
  assert.equal(fakes.living.length, 1);
});

test("a client is evicted however often it came back in one turn", async (t) => {
  const { pool, fakes, clock } = poolOf(t, { max: 1, idleTimeoutMs: 20 });
  await use(pool, nothing);
  const before = count("Immediate");
  for (let i = 0; i < 1_000; i++) await use(pool, nothing);
  assert.equal(count("Immediate"), before);
  clock.ms += 21;
  await eventually(() => fakes.living.length === 0, 5_000, "it is evicted");
});

test("the caller that has waited longest is served first", async (t) => {
  const { pool } = poolOf(t, { max: 1 });
  const holder = await pool.acquire();
  const order: number[] = [];
  const join = (n: number): Promise<void> => use(pool, async () => void order.push(n));
  const all = [1, 2, 3, 4].map(join);
  const back = holder.release();
  all.push(join(5)); // also behind the waiter that is about to get the client
  await Promise.all([back, ...all]);
  assert.deepEqual(order, [1, 2, 3, 4, 5]);
});

test("a client that comes back serves the waiter before a slow dial does, and the dialled client stays", async (t) => {
  const { pool, fakes } = poolOf(t, { max: 2 });
  const holder = await pool.acquire();
  const connected = gate();
  fakes.onOpen = () => connected.promise;
  const waiting = pool.acquire();
  await turns();
  await holder.release();
  assert.equal((await waiting).client, holder.client);
  connected.open();
  await eventually(() => pool.stats().idle === 1);
  assert.deepEqual(pool.stats(), { out: 1, idle: 1, waiting: 0, max: 2 });
  await (await waiting).release();
});

test("a failure that no retry mends reaches every waiter at once, and the next caller starts afresh", async (t) => {
  const { pool, fakes } = poolOf(t, { acquireTimeoutMs: 60_000 });
  const failure = new AuthFailedError("WRONGPASS");
  fakes.onOpen = (dial) => (dial <= 4 ? Promise.reject(failure) : undefined);
  const outcomes = await Promise.allSettled(Array.from({ length: 10 }, () => pool.acquire()));
  assert.ok(outcomes.every((outcome) => outcome.status === "rejected" && outcome.reason === failure));
  assert.ok(fakes.dials <= 4, `${fakes.dials} dials`);
  fakes.onOpen = () => undefined;
  await use(pool, async (client) => assert.ok(client));
});

test("an expired acquire names its phase, the time it took and how many clients were out", async (t) => {
  const { pool, fakes, clock } = poolOf(t, { max: 2, acquireTimeoutMs: 30, judgeMs: 60_000, idleCheckMs: 10 });
  const leases = [await pool.acquire(), await pool.acquire()];
  const wait = assert.rejects(pool.acquire(), { phase: "wait", elapsedMs: 7, out: 2, idle: 0, waiting: 1, max: 2 });
  clock.ms += 7;
  await wait;
  for (const lease of leases) await lease.release();
  clock.ms += 11;
  const silent = gate();
  fakes.onCheck = () => silent.promise;
  await assert.rejects(pool.acquire(), { phase: "validate", waiting: 1, max: 2 });
  silent.open();
});

test("real connections: never above max, a killed one is replaced, and none is left", async (t) => {
  const server = await startRedis();
  leakCheck(t, server);
  t.after(() => server.stop());
  const pool = new ClientPool<Redis>(redisFactory(server.port), {
    name: "dedicated client",
    max: 3,
    acquireTimeoutMs: 10_000,
    idleTimeoutMs: 60_000,
    maxLifetimeMs: 60_000,
    idleCheckMs: 0,
    retry: { baseDelayMs: 5, maxDelayMs: 50 },
  });
  const increments = Array.from({ length: 60 }, () => use(pool, (redis) => redis.incr("n")));
  assert.equal((await server.clients()).length <= 3, true);
  assert.equal(new Set(await Promise.all(increments)).size, 60);
  assert.equal((await server.clients()).length, 3);

  await server.admin.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
  assert.equal(await use(pool, (redis) => redis.incr("n")), 61);

  await server.kill();
  const waiting = use(pool, (redis) => redis.ping());
  await server.restart();
  assert.equal(await waiting, "PONG");
  await pool.close(1_000);
});

function redisFactory(port: number): PoolFactory<Redis> {
  return {
    async open() {
      const redis = new Redis({
        host: "127.0.0.1",
        port,
        connectionName: "pooled",
        lazyConnect: true,
        retryStrategy: () => null,
        enableOfflineQueue: false,
        maxRetriesPerRequest: 0,
      });
      redis.on("error", () => undefined);
      await redis.connect();
      return redis;
    },
    isAlive: (redis) => redis.status === "ready",
    check: async (redis) => (await redis.ping()) === "PONG",
    reset: async (redis) => (await redis.unwatch()) === "OK",
    close: async (redis) => {
      if (redis.status === "end") return;
      const ended = gate();
      redis.once("end", () => ended.open());
      redis.disconnect();
      await ended.promise;
    },
  };
}

async function nothing(): Promise<void> {}

function timersHoldingOn(): number {
  return process.getActiveResourcesInfo().filter((name) => name === "Timeout").length;
}

function stopper(): { signal: AbortSignal; abort: (reason: Error) => void } {
  const controller = new AbortController();
  return { signal: controller.signal, abort: (reason) => controller.abort(reason) };
}
