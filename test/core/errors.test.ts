import assert from "node:assert/strict";
import { cp, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";
import * as ours from "../../src/core/errors.js";
import { fromErrorData, toErrorData } from "../../src/link/error-serialization.js";

const { ConfigInvalidError, ConnectFailedError, ERROR_CLASSES, NotSentError, RedthreadError, ReplyLostError } = ours;

test("every class has a code of its own, which its name tells", () => {
  const codes = ERROR_CLASSES.map((made) => new made("why").code);
  assert.equal(new Set(codes).size, ERROR_CLASSES.length);
  for (const made of ERROR_CLASSES) {
    const spelled = made.name
      .replace(/Error$/, "")
      .replaceAll(/(?<=[a-z])[A-Z]/g, "_$&")
      .toUpperCase();
    assert.equal(new made("why").code, `REDTHREAD_${spelled}`);
  }
});

test("an error carries its outcome, its cause and the numbers of the moment", () => {
  const cause = new Error("ECONNRESET");
  const error = new ReplyLostError("INCR was written", { outcome: "unknown", cause, command: "incr" });
  assert.ok(error instanceof RedthreadError && error instanceof Error);
  assert.deepEqual([error.name, error.message, error.outcome], ["ReplyLostError", "INCR was written", "unknown"]);
  assert.equal(error.cause, cause);
  assert.deepEqual(Object.fromEntries(Object.entries(error)), {
    outcome: "unknown",
    command: "incr",
    code: "REDTHREAD_REPLY_LOST",
  });
});

test("an error without a cause has none, rather than an undefined one", () => {
  assert.equal("cause" in new ConnectFailedError("why"), false);
  assert.equal("cause" in new ConnectFailedError("why", { cause: undefined }), false);
});

test("an error whose options are wrong names its problems, at least its own message", () => {
  assert.deepEqual(new ConfigInvalidError("two things", { problems: ["one", "two"] }).problems, ["one", "two"]);
  assert.deepEqual(new ConfigInvalidError("one thing").problems, ["one thing"]);
});

test("instanceof holds for the errors of another copy of the package, and they are rebuilt as this copy's", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "redthread-copy-"));
  t.after(() => rm(folder, { recursive: true }));
  const lib = join(dirname(fileURLToPath(import.meta.resolve("redthread/package.json"))), "lib");
  await cp(lib, join(folder, "lib"), { recursive: true });
  await cp(join(lib, "../package.json"), join(folder, "package.json"));
  const theirs = (await import(pathToFileURL(join(folder, "lib/src/sync.js")).href)) as typeof ours;
  assert.notEqual(theirs.NotSentError, NotSentError);
  for (const [i, made] of ERROR_CLASSES.entries()) {
    const error: unknown = new theirs.ERROR_CLASSES[i]!("why");
    const matching = ERROR_CLASSES.filter((one) => error instanceof one);
    assert.deepEqual(matching, [made]);
    assert.ok(error instanceof RedthreadError && new made("why") instanceof theirs.RedthreadError, made.name);
  }
  class RetriedLater extends NotSentError {}
  class Theirs extends theirs.NotSentError {}
  assert.ok(new Theirs("why") instanceof NotSentError && !(new Theirs("why") instanceof RetriedLater));
  for (const other of [
    new Error("why"),
    Object.assign(new Error("why"), { code: "REDTHREAD_NOT_SENT" }),
    null,
    "why",
  ]) {
    assert.ok(!((other as unknown) instanceof RedthreadError) && !((other as unknown) instanceof NotSentError));
  }
  const crossed = fromErrorData(structuredClone(toErrorData(new theirs.NotSentError("why", { command: "get" }))));
  assert.ok(crossed instanceof NotSentError && crossed.constructor === NotSentError && crossed.command === "get");
});
