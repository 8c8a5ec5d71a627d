import assert from "node:assert/strict";
import { test } from "node:test";
import { ConnectFailedError, ERROR_CLASSES, RedthreadError, ReplyLostError } from "../../src/core/errors.js";

test("every class has a code of its own, the one its name says", () => {
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
  const error = new ReplyLostError("INCR was written", { outcome: "unknown", cause, command: "incr", waited: 3 });
  assert.ok(error instanceof RedthreadError && error instanceof Error);
  assert.deepEqual([error.name, error.message, error.outcome], ["ReplyLostError", "INCR was written", "unknown"]);
  assert.equal(error.cause, cause);
  assert.deepEqual(Object.fromEntries(Object.entries(error)), {
    outcome: "unknown",
    command: "incr",
    waited: 3,
    code: "REDTHREAD_REPLY_LOST",
  });
});

test("an error without a cause has none, rather than an undefined one", () => {
  assert.equal("cause" in new ConnectFailedError("why"), false);
  assert.equal("cause" in new ConnectFailedError("why", { cause: undefined }), false);
});
