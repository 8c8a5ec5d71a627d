/** The ways in which an error carries a value. */
export type Thrown = (typeof THROWN)[number];

export const THROWN = ["fields", "cause", "aggregate", "class", "DOMException"] as const;

class OutOfStockError extends Error {
  override readonly name = "OutOfStockError";
}

/** Its stack is the same text in every thread. */
export function makeThrown(how: Thrown, value: unknown): unknown {
  const carrying = (error: Error): Error =>
    Object.assign(withStack(error), { code: "E_MODEL", value, dropped: () => "a function stays behind" });
  switch (how) {
    case "fields":
      return carrying(new Error("fields"));
    case "cause":
      return withStack(new TypeError("cause", { cause: carrying(new RangeError("below")) }));
    case "aggregate":
      return withStack(new AggregateError([carrying(new Error("first")), carrying(new Error("second"))], "many"));
    case "class":
      return carrying(new OutOfStockError("class", { cause: "text" }));
    default:
      return new DOMException("stopped", "AbortError");
  }
}

function withStack<T extends Error>(error: T): T {
  Object.defineProperty(error, "stack", { value: `stack of ${error.message}`, configurable: true, writable: true });
  return error;
}
