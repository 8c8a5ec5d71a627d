import assert from "node:assert/strict";
import { test } from "node:test";
import { AuthFailedError, NotSentError, ReplyLostError } from "../../src/core/errors.js";
import type { LogFields, Logger } from "../../src/core/log.js";
import { connRetry, type RetryOptions } from "../../src/core/retry.js";

test("a function that fails and then succeeds is called until it succeeds, with this and arguments kept", async () => {
  const { options, slept } = manual();
  const counter = {
    calls: 0,
    add: connRetry(
      "Redis",
      "Adding",
      options,
    )(function (this: { calls: number }, a: number, b: number) {
      if (++this.calls < 3) throw new Error("not yet");
      return a + b;
    }),
  };
  assert.equal(await counter.add(1, 2), 3);
  assert.deepEqual(slept, [50, 100]);
});

test("waits are random below a ceiling that doubles up to its limit", async () => {
  const { options, slept } = manual({ random: () => 0.5, attempts: 8 });
  await assert.rejects(connRetry("Redis", "Connecting", options)(failing())());
  assert.deepEqual(slept, [25, 50, 100, 200, 400, 500, 500]);
});

test("a retry gives up instead of waiting past the deadline, with the last attempt's error unchanged", async () => {
  const { options, slept } = manual({ deadlineMs: 350 });
  const errors: Error[] = [];
  const attempt = (): never => {
    errors.push(new Error(`attempt ${errors.length + 1}`));
    throw errors.at(-1)!;
  };
  await assert.rejects(connRetry("Redis", "Connecting", options)(attempt)(), (error) => error === errors[2]);
  assert.deepEqual(slept, [50, 100]);
});

test("attempts counts calls, the first one included", async () => {
  const { options, slept } = manual({ attempts: 1 });
  await assert.rejects(connRetry("Redis", "Connecting", options)(failing())());
  assert.deepEqual(slept, []);
});

test("a wrong password, a bug and a permanent error reply are final, an unknown error is not, and the caller may decide otherwise", async () => {
  for (const [error, calls] of [
    [new AuthFailedError("no"), 1],
    [new RangeError("bug"), 1],
    [Object.assign(new Error("from another copy"), { code: "REDTHREAD_SHUTTING_DOWN" }), 1],
    [Object.assign(new Error("gone"), { code: "ECONNRESET" }), 2],
    [Object.assign(new Error("LOADING Redis is loading"), { name: "ReplyError" }), 2],
    [Object.assign(new Error("WRONGTYPE Operation against a key"), { name: "ReplyError" }), 1],
    ["a string", 2],
    [null, 2],
  ] as const) {
    const { options, slept } = manual({ attempts: 2 });
    await assert.rejects(connRetry("Redis", "Connecting", options)(failing(error))(), (thrown) => thrown === error);
    assert.equal(slept.length + 1, calls, String(error));
  }
  const { options, slept } = manual({ attempts: 2, isRetryable: () => false });
  await assert.rejects(connRetry("Redis", "Connecting", options)(failing())());
  assert.deepEqual(slept, []);
});

test("work that may have run already is not run again unless the caller allows it", async () => {
  const lost = new ReplyLostError("written, and no reply", { outcome: "unknown" });
  const unsent = new NotSentError("no connection", { outcome: "not-sent" });
  for (const [error, isRetryable, calls] of [
    [lost, undefined, 1],
    [unsent, undefined, 3],
    [lost, () => true, 3],
  ] as const) {
    const { options, slept } = manual({ attempts: 3, isRetryable });
    await assert.rejects(connRetry("Redis", "Adding", options)(failing(error))());
    assert.equal(slept.length + 1, calls);
  }
});

test("an abort during a wait rejects at once with the reason", async () => {
  const controller = new AbortController();
  const reason = new Error("called off");
  const logger = recorder();
  const isRetryable = (): boolean => {
    queueMicrotask(() => controller.abort(reason));
    return true;
  };
  const options = {
    signal: controller.signal,
    baseDelayMs: 1e6,
    maxDelayMs: 1e6,
    deadlineMs: 1e9,
    logger,
    isRetryable,
  };
  await assert.rejects(connRetry("Redis", "Connecting", options)(failing())(), reason);
  assert.deepEqual(logger.lines.at(-1)?.slice(0, 2), ["debug", "Redis: Connecting called off"]);
});

test("no attempt begins after an abort, and none follows an abort during an attempt", async () => {
  const controller = new AbortController();
  let calls = 0;
  const attempt = connRetry("Redis", "Connecting", { signal: controller.signal })(() => {
    calls++;
    controller.abort(new Error("called off"));
    throw new Error("cut off");
  });
  await assert.rejects(attempt(), /called off/);
  await assert.rejects(attempt(), /called off/);
  assert.equal(calls, 1);
});

test("an async generator is retried before its first item only", async () => {
  const { options, slept } = manual();
  let starts = 0;
  const items = connRetry(
    "Redis",
    "Reading",
    options,
  )(async function* (from: number) {
    if (++starts < 3) throw new Error("not yet");
    yield from;
    throw new Error("in the middle");
  });
  const seen: number[] = [];
  await assert.rejects(async () => {
    for await (const item of items(5)) seen.push(item);
  }, /in the middle/);
  assert.deepEqual({ seen, starts, slept }, { seen: [5], starts: 3, slept: [50, 100] });
});

test("an async generator keeps the sent and returned values, and is complete when it is finished", async () => {
  const logger = recorder();
  const { options } = manual({ logger });
  const echo = connRetry(
    "Redis",
    "Echoing",
    options,
  )(async function* () {
    const sent: string = yield "ready";
    yield sent;
    return "done";
  });
  const items = echo();
  assert.deepEqual(await items.next(), { value: "ready", done: false });
  assert.deepEqual(await items.next("hello"), { value: "hello", done: false });
  assert.deepEqual(logger.messages(), ["Redis: Echoing started"]);
  assert.deepEqual(await items.next(), { value: "done", done: true });
  assert.deepEqual(logger.messages(), ["Redis: Echoing started", "Redis: Echoing completed"]);
});

test("a consumer that stops early closes the inner generator", async () => {
  const logger = recorder();
  const { options } = manual({ logger });
  let closed = false;
  const endless = connRetry(
    "Redis",
    "Scanning",
    options,
  )(async function* () {
    try {
      for (;;) yield 1;
    } finally {
      closed = true;
    }
  });
  for await (const _ of endless()) break;
  assert.equal(closed, true);
  assert.deepEqual(logger.messages(), ["Redis: Scanning started", "Redis: Scanning completed"]);
});

test("an async generator without items is complete, with its return value", async () => {
  const { options } = manual();
  const none: number[] = [];
  const empty = connRetry(
    "Redis",
    "Reading",
    options,
  )(async function* () {
    yield* none;
    return 3;
  });
  assert.deepEqual(await empty().next(), { value: 3, done: true });
});

test("the log has one line each for started, retrying, completed, under one id", async () => {
  const logger = recorder();
  const { options } = manual({ logger, deadlineMs: 1_000 });
  let calls = 0;
  await connRetry(
    "Redis",
    "Acquiring connection",
    options,
  )(async () => {
    if (++calls === 1) throw Object.assign(new Error("a secret"), { code: "ECONNREFUSED", args: ["a secret"] });
  })();
  const ids = new Set(logger.lines.map(([, , fields]) => fields?.["callId"]));
  assert.equal(ids.size, 1);
  const shared = { resource: "Redis", action: "Acquiring connection", callId: [...ids][0] };
  assert.deepEqual(logger.lines, [
    ["debug", "Redis: Acquiring connection started", shared],
    [
      "warn",
      "Redis: Acquiring connection retrying",
      { ...shared, attempt: 1, elapsedMs: 0, code: "ECONNREFUSED", delayMs: 50, leftMs: 1_000 },
    ],
    ["info", "Redis: Acquiring connection completed", { ...shared, attempt: 2, elapsedMs: 50 }],
  ]);
});

test("success at the first attempt is a debug line, failure is an error line, and no line has an error's message", async () => {
  const logger = recorder();
  const { options } = manual({ logger, attempts: 2 });
  await connRetry("Redis", "Connecting", options)(() => 1)();
  await assert.rejects(connRetry("Redis", "Connecting", options)(failing(new Error("a secret")))());
  assert.deepEqual(
    logger.lines.map(([level]) => level),
    ["debug", "debug", "debug", "warn", "error"],
  );
  assert.equal(logger.lines.at(-1)?.[2]?.["code"], "Error");
  assert.doesNotMatch(JSON.stringify(logger.lines), /secret/);
});

test("the wrapped function keeps its types", () => {
  const number: (text: string) => Promise<number> = connRetry("Redis", "Measuring")((text: string) => text.length);
  const items: () => AsyncGenerator<number, string, boolean> = connRetry(
    "Redis",
    "Reading",
  )(async function* () {
    const more: boolean = yield 1;
    return String(more);
  });
  assert.equal(typeof number, "function");
  assert.equal(typeof items, "function");
});

/** Time passes only in sleeps. The jitter is at its maximum. */
function manual(options: RetryOptions = {}): { options: RetryOptions; slept: number[] } {
  let now = 1_000;
  const slept: number[] = [];
  const sleep = async (ms: number): Promise<void> => {
    slept.push(ms);
    now += ms;
  };
  return { options: { now: () => now, random: () => 1, sleep, ...options }, slept };
}

function failing(error: unknown = new Error("no")): () => never {
  return () => {
    throw error;
  };
}

type Line = [level: string, message: string, fields: LogFields | undefined];

function recorder(): Logger & { lines: Line[]; messages(): string[] } {
  const lines: Line[] = [];
  const at =
    (level: string) =>
    (message: string, fields?: LogFields): void =>
      void lines.push([level, message, fields]);
  const messages = (): string[] => lines.map(([, message]) => message);
  return { debug: at("debug"), info: at("info"), warn: at("warn"), error: at("error"), lines, messages };
}
