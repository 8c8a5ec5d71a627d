import assert from "node:assert/strict";
import { test } from "node:test";
import { SharedClient, type SharedClientOptions } from "../../src/clients/shared-client.js";
import type { Client } from "../../src/connection/client.js";
import { code } from "../support/manage.js";
import { gate, type Gate } from "../support/gate.js";

/** Replaces a client where a real one could not be held at the point that the test is about. */
class FakeClient {
  readonly redis = { of: this };
  state = "connected";
  isFreshNow = true;
  checks = 0;
  closed = false;
  answer: Gate | undefined;

  isAlive = (): boolean => this.state === "connected";
  isFresh = (): boolean => this.isFreshNow && this.isAlive();

  async check(): Promise<boolean> {
    this.checks++;
    await this.answer?.promise;
    return true;
  }

  async close(): Promise<void> {
    this.closed = true;
    this.state = "closed";
  }
}

interface Shared {
  readonly shared: SharedClient;
  /** Every client that was opened, in order. */
  readonly clients: FakeClient[];
}

/** `opening` delays or fails the attempt with that number, counted from 0. */
function share(
  options: Partial<SharedClientOptions> = {},
  opening: (attempt: number, signal: AbortSignal) => Promise<void> = async () => {},
): Shared {
  const clients: FakeClient[] = [];
  let attempts = 0;
  const open = async (signal: AbortSignal): Promise<Client> => {
    await opening(attempts++, signal);
    const client = new FakeClient();
    clients.push(client);
    return client as unknown as Client;
  };
  return { shared: new SharedClient({ open, closeMs: 100, idleCheckMs: 500, ...options }), clients };
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test("callers that ask at once share one attempt and its failure, and the next caller starts a new one", async () => {
  const { shared, clients } = share({}, async (attempt) => {
    if (attempt === 0) throw new Error("no luck");
  });
  const first = await Promise.allSettled([shared.get(), shared.get(), shared.use(async () => 1)]);
  const [one, two, three] = first.map((result) => (result as PromiseRejectedResult).reason as Error);
  assert.equal(one!.message, "no luck");
  assert.ok(one === two && two === three);
  assert.equal(shared.state, "disconnected");
  const [a, b] = await Promise.all([shared.get(), shared.get()]);
  assert.equal(a, b);
  assert.equal(clients.length, 1);
});

test("a caller that gives up leaves, and the attempt serves the callers that go on waiting", async () => {
  const opened = gate();
  const { shared, clients } = share({}, () => opened.promise);
  const stop = new AbortController();
  const impatient = shared.get(stop.signal);
  const patient = shared.get();
  assert.equal(shared.state, "connecting");
  stop.abort(new Error("enough"));
  await assert.rejects(impatient, /enough/);
  opened.open();
  await patient;
  assert.equal(clients.length, 1);
});

test("a client that arrives after the close is closed, and its callers learn why", async () => {
  const opened = gate();
  const signals: AbortSignal[] = [];
  const { shared, clients } = share({}, async (_, signal) => {
    signals.push(signal);
    await opened.promise;
  });
  const waiting = assert.rejects(shared.get(), code("SHUTTING_DOWN"));
  const closing = shared.close(100);
  assert.ok(signals[0]!.aborted); // the attempt is aborted at once
  opened.open();
  await Promise.all([waiting, closing]);
  assert.deepEqual(
    clients.map(({ closed }) => closed),
    [true],
  );
  await assert.rejects(shared.get(), code("SHUTTING_DOWN"));
  assert.equal(shared.state, "closed");
});

test("closing a shared client that nobody asked for opens nothing", async () => {
  const { shared, clients } = share();
  await Promise.all([shared.close(100), shared.close(100)]);
  assert.deepEqual([clients.length, shared.ageMs, shared.rotations], [0, 0, 0]);
});

test("an idle client gets a PING before it is handed out, and a caller that gives up does not keep it in use", async () => {
  let hits = 0;
  const { shared, clients } = share({ onHit: () => hits++ });
  await shared.get();
  const client = clients[0]!;
  client.isFreshNow = false;
  client.answer = gate();
  const stop = new AbortController();
  const impatient = assert.rejects(
    shared.use(async () => {}, stop.signal),
    /enough/,
  );
  const patient = shared.use(async (redis) => redis);
  await turn();
  assert.ok(client.checks > 0);
  stop.abort(new Error("enough"));
  await impatient;
  hits = 0;
  client.answer.open();
  assert.equal(await patient, client.redis);
  assert.equal(hits, 0); // each was checked, so none counts as a hit
});

test("a client that lost its connection is handed out as it is, without PING or rotation, and an abort still counts", async () => {
  let hits = 0;
  const { shared, clients } = share({ ttlMs: 0, onHit: () => hits++ });
  const handle = await shared.use(async (redis) => redis);
  await turn();
  await turn();
  const { rotations } = shared;
  const client = clients.at(-1)!;
  client.state = "connecting";
  hits = 0;
  assert.equal(await shared.get(), client.redis);
  assert.equal(await shared.use(async (redis) => redis), client.redis);
  await turn();
  assert.deepEqual([shared.rotations, client.checks, hits], [rotations, 0, 2]);
  await assert.rejects(shared.get(AbortSignal.abort(new Error("enough"))), /enough/);
  client.state = "connected";
  await shared.use(async () => {});
  await turn();
  assert.equal(shared.rotations, rotations + 1);
  assert.notEqual(handle, client.redis);
});

test("a client whose ttl is over is replaced without its callers' notice, and closed after its last user", async () => {
  const { shared, clients } = share({ ttlMs: 0 });
  const done = gate();
  const held = shared.use(() => done.promise);
  await turn();
  await turn();
  assert.equal(shared.rotations, 1);
  assert.equal(clients[0]!.closed, false);
  const next = await shared.use(async (redis) => redis);
  assert.equal(next, clients[1]!.redis);
  assert.equal(shared.rotations, 1); // one rotation at a time
  done.open();
  await held;
  await turn();
  assert.equal(clients[0]!.closed, true);
  assert.equal(clients[1]!.closed, false);
  await shared.close(100);
  assert.ok(clients.every(({ closed }) => closed));
});

test("a close waits neither for users nor for the grace of callers that got the old client", async () => {
  const { shared, clients } = share({ ttlMs: 0 });
  await shared.get();
  const forever = shared.use(() => new Promise<void>(() => {}));
  await turn();
  await turn();
  assert.equal(shared.rotations, 1);
  await shared.close(100);
  assert.deepEqual(
    clients.map(({ closed }) => closed),
    [true, true],
  );
  void forever; // never settles, because its `fn` does not
});

test("a replacement that fails leaves the client that works, and the next caller tries again", async () => {
  const { shared, clients } = share({ ttlMs: 0 }, async (attempt) => {
    if (attempt === 1) throw new Error("refused");
  });
  await shared.use(async () => {});
  await turn();
  assert.deepEqual([shared.rotations, clients.length, clients[0]!.closed], [0, 1, false]);
  await shared.use(async () => {});
  await turn();
  assert.deepEqual([shared.rotations, clients.length, clients[0]!.closed], [1, 2, true]);
});
