import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import Module from "node:module";
import { PassThrough, Writable } from "node:stream";
import { text } from "node:stream/consumers";
import { mock, test } from "node:test";
import { promisify } from "node:util";
import { CommandTimeoutError } from "../../../src/core/errors.js";
import { isLogged, LOG_LEVELS, noopLogger } from "../../../src/core/log.js";
import type { LogConfig } from "../../../src/config/options.js";
import { createLogger, type ClosableLogger } from "../../../src/main/observe/logger.js";

const JSON_INFO: LogConfig = { level: "info", format: "json" };

test("a record is one JSON line with time, level, message and fields", async () => {
  const [line] = await linesOf(JSON_INFO, (logger) => logger.info("connected", { threadId: 3, ms: 1.5 }));
  const { ts, ...rest } = JSON.parse(line!);
  assert.equal(new Date(ts).toISOString(), ts);
  assert.deepEqual(rest, { level: "info", message: "connected", threadId: 3, ms: 1.5 });
});

test("a text record is one readable line, with values quoted where needed", async () => {
  const [line] = await linesOf({ level: "info", format: "text" }, (logger) =>
    logger.warn("retrying\nnow", {
      code: "ECONNRESET",
      name: "two words",
      empty: "",
      left: 5,
      list: [1, "a b"],
      no: null,
      big: 5n,
      nan: NaN,
    }),
  );
  const values = 'code=ECONNRESET name="two words" empty="" left=5 list=[1,"a b"] no=null big=5 nan=NaN';
  assert.match(line!, /^\d{4}-\S+Z WARN {2}retrying\\nnow /);
  assert.ok(line!.endsWith(` ${values}`), line);
});

test("a field that throws when it is read costs the fields, not the line", async () => {
  const fields = {
    get field(): never {
      throw new Error("it cannot be read");
    },
  };
  const [line] = await linesOf({ level: "info", format: "json" }, (logger) => logger.info("said", fields));
  const { message, fields: why } = JSON.parse(line!) as Record<string, unknown>;
  assert.deepEqual([message, why], ["said", "one of them throws when it is read"]);
});

test("records below the level are not written", async () => {
  for (const level of LOG_LEVELS) {
    const lines = await linesOf({ level, format: "json" }, (logger) => {
      for (const each of LOG_LEVELS) logger[each](each);
    });
    assert.equal(lines.length, LOG_LEVELS.indexOf(level) + 1);
  }
  assert.equal(isLogged("debug", "info"), false);
  assert.equal(isLogged("error", "error"), true);
});

test("records keep their order, and the time and fields of when they were logged", async () => {
  const fields = { state: "then" };
  const lines = await linesOf(JSON_INFO, async (logger) => {
    for (let n = 0; n < 100; n++) logger.info(`early ${n}`, fields);
    fields.state = "later";
    await import("winston");
    await new Promise((resolve) => setImmediate(resolve));
    for (let n = 0; n < 100; n++) logger.info(`late ${n}`);
  });
  const records = lines.map((line) => JSON.parse(line));
  const expected = ["early", "late"].flatMap((when) => Array.from({ length: 100 }, (_, n) => `${when} ${n}`));
  assert.deepEqual(
    records.map(({ message }) => message),
    expected,
  );
  assert.equal(records[0].state, "then");
});

test("an error shows name and code, and its message only when it is redthread's", async () => {
  const reply = Object.assign(new Error("ERR wrong value hunter2"), {
    name: "ReplyError",
    command: { args: ["hunter2"] },
  });
  const fields = { ours: new CommandTimeoutError("no reply within 5 ms", { cause: reply }), reply };
  const [line] = await linesOf(JSON_INFO, (logger) => logger.error("failed", fields));
  assert.doesNotMatch(line!, /hunter2/);
  const record = JSON.parse(line!);
  assert.deepEqual(record.reply, { name: "ReplyError" });
  assert.deepEqual(record.ours, {
    name: "CommandTimeoutError",
    code: "REDTHREAD_COMMAND_TIMEOUT",
    message: "no reply within 5 ms",
    cause: { name: "ReplyError" },
  });
});

test("whatever the fields are, the record is written, without fields that are secrets by their names", async () => {
  const circle: Record<string, unknown> = { password: "hunter2", args: ["hunter2"] };
  circle["self"] = circle;
  const fields = {
    circle,
    url: new URL("redis://:hunter2@h"),
    bytes: Buffer.from("hunter2"),
    big: 1n,
    nan: Number.NaN,
    fn: () => 1,
    when: new Date(0),
    message: "not this one",
  };
  const [line] = await linesOf(JSON_INFO, (logger) => logger.info("this one", fields));
  const record = JSON.parse(line!);
  assert.doesNotMatch(line!, /hunter2/);
  assert.equal(record.message, "this one");
  assert.deepEqual(
    [record.url, record.bytes, record.big, record.nan, record.fn, record.when],
    ["[object URL]", "7 bytes", "1", "NaN", undefined, "1970-01-01T00:00:00.000Z"],
  );
});

test("field names and messages with a meaning in winston are written like all others", async () => {
  const fields = { exception: true, stack: "s", cause: "c", timestamp: 0, ts: 0, splat: [1] };
  const [line] = await linesOf(JSON_INFO, (logger) => logger.info("100 %d of %s", fields));
  const { ts, ...rest } = JSON.parse(line!);
  assert.match(ts, /^\d{4}-/);
  const { ts: _, ...shown } = fields;
  assert.deepEqual(rest, { level: "info", message: "100 %d of %s", ...shown });
});

test("a child adds its fields to its lines, and the own fields of a line win", async () => {
  const lines = await linesOf(JSON_INFO, (logger) => {
    const child = logger.child!({ threadId: 3, password: "hunter2" });
    child.info("one", { n: 1 });
    child.child!({ taskId: "t1" }).warn("two", { threadId: 4 });
    child.debug("not this one");
    logger.info("three");
  });
  assert.deepEqual(
    lines.map((line) => ({ ...JSON.parse(line), ts: undefined })),
    [
      { ts: undefined, level: "info", message: "one", threadId: 3, password: "[hidden]", n: 1 },
      { ts: undefined, level: "warn", message: "two", threadId: 4, password: "[hidden]", taskId: "t1" },
      { ts: undefined, level: "info", message: "three" },
    ],
  );
});

test("close() resolves when everything is written, is idempotent, and later lines are dropped", async () => {
  const written: string[] = [];
  const slow = new Writable({
    decodeStrings: false,
    write(chunk: string, _, done) {
      setImmediate(() => {
        written.push(chunk);
        done();
      });
    },
  });
  const logger = createLogger(JSON_INFO, slow);
  for (let n = 0; n < 50; n++) logger.info("line");
  const closing = logger.close();
  assert.equal(logger.close(), closing);
  await closing;
  assert.equal(written.length, 50);
  logger.error("too late");
  await logger.close();
  assert.equal(written.length, 50);
  assert.equal(slow.listenerCount("error"), 0);
  assert.equal(slow.writableEnded, false);
});

test("close() without a record before it loads nothing", async () => {
  await createLogger(JSON_INFO, new PassThrough()).close();
  noopLogger.error("nobody hears this");
});

test("a log whose reader has gone away breaks nothing", async () => {
  const broken = new Writable({ write: (_chunk, _encoding, done) => done(new Error("EPIPE")) });
  const logger = createLogger(JSON_INFO, broken);
  logger.info("into the void");
  logger.info("again");
  await logger.close();
});

test("where winston cannot be loaded, lines are plain JSON", async () => {
  const load = mock.method(Module as unknown as { _load(name: string): unknown }, "_load", (name: string) => {
    throw Object.assign(new Error(`EMFILE: ${name}`), { code: "EMFILE" });
  });
  const lines = await linesOf({ level: "info", format: "text" }, (logger) => {
    logger.child!({ threadId: 3 }).error("no file descriptor is left", { secret: "hunter2", big: 1n });
    logger.debug("not this one");
  }).finally(() => load.mock.restore());
  assert.equal(lines.length, 1);
  const { ts, ...rest } = JSON.parse(lines[0]!);
  assert.match(ts, /^\d{4}-/);
  const fields = { threadId: 3, secret: "[hidden]", big: "1" };
  assert.deepEqual(rest, { level: "error", message: "no file descriptor is left", ...fields });
});

test("every line reaches a pipe on stderr and none stdout when the process exits right after close()", async () => {
  const program = `
    const { createLogger } = await import(${JSON.stringify(new URL("../../../src/main/observe/logger.js", import.meta.url).href)});
    const logger = createLogger({ level: "debug", format: "json" });
    for (let n = 0; n < 5000; n++) logger.debug("line", { n });
    await logger.close();
    process.exit(0);
  `;
  const options = { maxBuffer: 2 ** 26 };
  const { stdout, stderr } = await promisify(execFile)(
    process.execPath,
    ["--input-type=module", "-e", program],
    options,
  );
  assert.equal(stdout, "");
  assert.deepEqual(
    stderr
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line).n),
    Array.from({ length: 5000 }, (_, n) => n),
  );
});

async function linesOf(log: LogConfig, use: (logger: ClosableLogger) => void | Promise<void>): Promise<string[]> {
  const stream = new PassThrough();
  const logger = createLogger(log, stream);
  await use(logger);
  await logger.close();
  stream.end();
  return (await text(stream)).split("\n").slice(0, -1);
}
