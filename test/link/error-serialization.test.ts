import assert from "node:assert/strict";
import { test } from "node:test";
import { runInNewContext } from "node:vm";
import * as fc from "fast-check";
import { ReplyError } from "ioredis";
import { fromErrorData, toErrorData } from "../../src/link/error-serialization.js";
import { ERROR_CLASSES, ReplyLostError, TaskAbortedError } from "../../src/core/errors.js";
import { uncloneablePath } from "../../src/link/uncloneable.js";

/** The error after its way to data, over a channel, and back. */
function across(error: unknown): Error & Record<string, unknown> {
  return fromErrorData(structuredClone(toErrorData(error))) as Error & Record<string, unknown>;
}

test("redthread's own errors are rebuilt with their class and fields", () => {
  for (const made of ERROR_CLASSES) {
    const error = Object.assign(new made("why", { outcome: "unknown", cause: new Error("below") }), { n: 1 });
    const rebuilt = across(error);
    assert.ok(rebuilt instanceof made, made.name);
    assert.deepEqual([rebuilt.name, rebuilt.code, rebuilt.n], [error.name, error.code, 1]);
    assert.equal(rebuilt.stack, error.stack);
    assert.equal((rebuilt.cause as Error).message, "below");
  }
});

test("errors of the language keep their class, other errors their name, and all keep their own fields", () => {
  class OutOfStockError extends Error {
    override readonly name = "OutOfStockError";
    readonly code = "E_STOCK";
    readonly item = { id: 7 };
    readonly report = () => "a function stays behind";
  }
  assert.ok(across(new RangeError("far")) instanceof RangeError);
  const rebuilt = across(new OutOfStockError("none left"));
  assert.ok(rebuilt instanceof Error);
  assert.deepEqual([rebuilt.name, rebuilt.code, rebuilt.item], ["OutOfStockError", "E_STOCK", { id: 7 }]);
  assert.equal("report" in rebuilt, false);
  assert.match(String(rebuilt), /^OutOfStockError: none left$/);
});

test("a server's error has the class of ioredis again, also as a cause", () => {
  const made = new ReplyError("WRONGTYPE of key") as Error;
  const rebuilt = across(
    new TaskAbortedError("given up", { cause: Object.assign(made, { command: { name: "get" } }) }),
  );
  const cause = rebuilt.cause as Error;
  assert.ok(cause instanceof ReplyError);
  assert.deepEqual([cause.name, cause.message, Object.entries(cause)], [made.name, made.message, Object.entries(made)]);
  assert.deepEqual(Object.getOwnPropertyNames(cause).toSorted(), Object.getOwnPropertyNames(made).toSorted());
});

test("an aggregate keeps its errors, each with its causes", () => {
  const inner = new TaskAbortedError("given up", { cause: new TypeError("deep") });
  const rebuilt = across(new AggregateError([inner, "just text"], "many"));
  assert.ok(rebuilt instanceof AggregateError);
  assert.ok(rebuilt.errors[0] instanceof TaskAbortedError);
  assert.ok(rebuilt.errors[0].cause instanceof TypeError);
  assert.equal(rebuilt.errors[1], "just text");
});

test("a thrown value that is no error arrives as it was, or as text if it cannot be cloned", () => {
  for (const thrown of [null, undefined, 0, "text", { code: 1 }]) assert.deepEqual(across(thrown), thrown);
  assert.match(String(across(() => 1)), /=> 1/);
  assert.equal(String(across(Symbol("s"))), "Symbol(s)");
});

test("an error of another realm counts as an error", () => {
  const foreign: unknown = runInNewContext("Object.assign(new TypeError('from afar'), { code: 'E_FAR' })");
  assert.equal(foreign instanceof Error, false);
  const rebuilt = across(foreign);
  assert.ok(rebuilt instanceof TypeError);
  assert.deepEqual([rebuilt.message, rebuilt.code], ["from afar", "E_FAR"]);
});

test("a circular chain of causes is cut off", () => {
  const error = new ReplyLostError("circle");
  Object.assign(error, { cause: error });
  let depth = 0;
  for (let at: unknown = across(error); at instanceof Error; at = at.cause) depth++;
  assert.ok(depth > 1 && depth < 20, String(depth));
});

const fn = (): void => {};

test("the path of a value that cannot be cloned leads through arrays, maps, sets and circles", () => {
  const circle: Record<string, unknown> = { name: "circle" };
  circle["self"] = circle;
  circle["fn"] = fn;
  const cases: [unknown, string][] = [
    [fn, "input"],
    [{ a: { b: [1, fn] } }, "input.a.b[1]"],
    [new Map([["x", { fn }]]), "input[0].fn"],
    [new Set([1, fn]), "input[1]"],
    [circle, "input.fn"],
    [{ s: Symbol("s") }, "input.s"],
  ];
  for (const [value, path] of cases) assert.equal(uncloneablePath(value, "input"), path);
});

const PARTS = new Set(["name", "message", "stack", "cause", "errors"]);
const field = fc.oneof(fc.string(), fc.double(), fc.bigInt(), fc.constantFrom(null, undefined), fc.array(fc.string()));
const { error: anyError } = fc.letrec<{ error: Error }>((tie) => ({
  error: fc
    .record({
      message: fc.string({ unit: "binary" }),
      name: fc.string(),
      fields: fc.dictionary(
        fc.string().filter((key) => !PARTS.has(key)),
        field,
      ),
      cause: fc.option(tie("error"), { maxDepth: 5, nil: undefined }),
      errors: fc.option(fc.array(tie("error"), { maxLength: 3 }), { maxDepth: 3, nil: undefined }),
    })
    .map(({ message, name, fields, cause, errors }) => {
      const options = cause === undefined ? {} : { cause };
      const made = errors ? new AggregateError(errors, message, options) : new Error(message, options);
      for (const [key, value] of [...Object.entries(fields), ["name", name] as const]) {
        const enumerable = key !== "name";
        Object.defineProperty(made, key, { value, enumerable, configurable: true, writable: true });
      }
      return made;
    }),
}));

/** All that a reader of an error can see. */
function seen(error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  const { name, message, stack, cause } = error;
  const errors = error instanceof AggregateError ? error.errors.map(seen) : undefined;
  return [name, message, stack, Object.entries(error), seen(cause), errors];
}

test("all parts of an error and of its causes arrive", () => {
  fc.assert(fc.property(anyError, (error) => assert.deepEqual(seen(across(error)), seen(error))));
});

test("an error whose getters throw still arrives as an error", () => {
  const hostile = Object.defineProperty(new Error("m"), "field", {
    enumerable: true,
    get() {
      throw new Error("gotcha");
    },
  });
  assert.match(across(hostile).message, /throws when it is read/);
});

test("an error whose classes cannot be read keeps its other parts", () => {
  class Hostile extends Error {
    static {
      Object.defineProperty(this.prototype, "constructor", {
        get() {
          throw new Error("gotcha");
        },
      });
    }
  }
  assert.equal(across(new Hostile("what went wrong")).message, "what went wrong");
});
