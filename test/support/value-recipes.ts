/** A negative number is a primitive of PRIMITIVES, `~n`; another one is a node of the same heap, modulo its size. */
export type Part = number;

export const VIEWS = {
  Buffer: (bytes: ArrayBuffer, offset: number, length: number) => Buffer.from(bytes, offset, length),
  Int8Array,
  Uint8Array,
  Uint8ClampedArray,
  Int16Array,
  Uint16Array,
  Int32Array,
  Uint32Array,
  Float32Array,
  Float64Array,
  BigInt64Array,
  BigUint64Array,
  DataView,
};
export type ViewName = keyof typeof VIEWS;
type ViewMaker = new (bytes: ArrayBuffer, offset: number, length: number) => ArrayBufferView;

type Backing = "own" | "pool" | "window" | "shared" | "resizable";

/** How to make one object, as data that crosses to a thread as text: both threads make the same value of it. */
export type Recipe =
  | {
      readonly kind: "object";
      readonly prototype: "Object" | "none" | "Point";
      readonly entries: readonly (readonly [string, Part])[];
      readonly looks: "ordinary" | "frozen" | "getters";
    }
  | {
      readonly kind: "array";
      readonly parts: readonly (Part | null)[];
      readonly entries: readonly (readonly [string, Part])[];
      readonly looks: "ordinary" | "frozen";
    }
  | { readonly kind: "map"; readonly entries: readonly (readonly [Part, Part])[] }
  | { readonly kind: "set"; readonly members: readonly Part[] }
  | {
      readonly kind: "error";
      readonly name: keyof typeof ERRORS;
      readonly message: string;
      /** A chain of errors with these messages. */
      readonly causes: readonly string[];
      readonly field: Part;
    }
  | { readonly kind: "leaf"; readonly name: keyof typeof LEAVES }
  | {
      readonly kind: "view";
      readonly view: ViewName;
      readonly backing: Backing;
      readonly bytes: number;
      readonly offset: number;
      readonly seed: number;
    }
  | {
      /** Several views of one buffer. */
      readonly kind: "windows";
      readonly bytes: number;
      readonly views: readonly { readonly view: ViewName; readonly offset: number; readonly bytes: number }[];
    }
  | { readonly kind: "buffer"; readonly bytes: number; readonly isShared: boolean }
  | {
      readonly kind: "large";
      readonly shape: "numbers" | "keys" | "rows" | "chain";
      readonly count: number;
      readonly part: Part;
    }
  | { readonly kind: "uncloneable"; readonly name: keyof typeof UNCLONEABLE };

/** The value that a Promise in a heap resolves to. */
export const RESOLVED = 7;

/** Its instances arrive as plain objects. */
class Point {
  get length(): number {
    return Object.keys(this).length;
  }
}

export const PRIMITIVES: readonly unknown[] = [
  0,
  "",
  undefined,
  null,
  true,
  -0,
  NaN,
  1.5,
  -Infinity,
  2 ** 53,
  1n,
  -(2n ** 70n),
  "text",
  "\u{1f9f5} \u20ac \ud800",
  "long ".repeat(300),
];

export const ERRORS = { Error, TypeError, RangeError, SyntaxError, ReferenceError, EvalError, URIError };

export const LEAVES = {
  date: () => new Date(86_400_000),
  "invalid date": () => new Date(NaN),
  regexp: () => Object.assign(/a(b)/giu, { lastIndex: 2 }),
  number: () => new Number(-0),
  string: () => new String("boxed"),
  boolean: () => new Boolean(false),
  bigint: () => Object(5n) as object,
  match: () => /(?<year>\d+)-(x)?/d.exec("in 2024-"),
};

export const UNCLONEABLE = {
  function: () => () => 1,
  symbol: () => Symbol("symbol"),
  promise: () => Promise.resolve(RESOLVED),
  "weak map": () => new WeakMap(),
  proxy: () => new Proxy({ a: 1 }, {}),
  "proxy of an array": () => new Proxy([1], {}),
  "boxed symbol": () => Object(Symbol("boxed")) as object,
  "detached buffer": () => detached(new Uint8Array(4)).buffer,
  "detached array": () => detached(new Uint8Array(4)),
  "detached view": () => detached(new DataView(new ArrayBuffer(4))),
  "detached Buffer": () => detached(Buffer.from(new ArrayBuffer(4))),
};

/**
 * Below the depth at which cloning gives up, or a stack ends: with 12 nodes of at most two levels each, and one chain,
 * no path through a value is longer than 60.
 */
export const MOST_NODES = 12;
const CHAIN = 30;

/** Makes all nodes of a heap. They refer to each other, so that values have parts in common and cycles. */
export function build(recipes: readonly Recipe[]): unknown[] {
  const made = recipes.map(start);
  const part = (at: Part): unknown => (at < 0 ? PRIMITIVES[~at] : made[at % made.length]);
  const firstChain = recipes.findIndex((recipe) => recipe.kind === "large" && recipe.shape === "chain");
  recipes.forEach((recipe, i) => fill(made[i] as object, recipe, part, i === firstChain));
  return made;
}

/** For the report of a failure. */
export function printHeap(recipes: readonly Recipe[]): string {
  const part = (at: Part | null): string => {
    if (at === null) return "hole";
    return at < 0 ? printPrimitive(PRIMITIVES[~at]) : `#${at % recipes.length}`;
  };
  const entries = (all: readonly (readonly [string, Part])[]): string[] =>
    all.map(([key, value]) => `${JSON.stringify(key)}: ${part(value)}`);
  const print = (recipe: Recipe): string => {
    switch (recipe.kind) {
      case "object":
        return `${recipe.looks} ${recipe.prototype} {${entries(recipe.entries).join(", ")}}`;
      case "array":
        return `${recipe.looks} [${[...recipe.parts.map(part), ...entries(recipe.entries)].join(", ")}]`;
      case "map":
        return `Map(${recipe.entries.map((pair) => pair.map(part).join(" => ")).join(", ")})`;
      case "set":
        return `Set(${recipe.members.map(part).join(", ")})`;
      case "error":
        return `${recipe.name}(${JSON.stringify(recipe.message)}, causes: ${recipe.causes.join()}, field: ${part(recipe.field)})`;
      case "large":
        return `${recipe.shape} of ${recipe.count}, with ${part(recipe.part)}`;
      default:
        return JSON.stringify(recipe);
    }
  };
  return recipes.map((recipe, i) => `  #${i} ${print(recipe)}`).join("\n");
}

/** A container starts empty, because its parts may not exist yet. Everything else is complete. */
function start(recipe: Recipe): unknown {
  switch (recipe.kind) {
    case "object":
      return Object.create({ Object: Object.prototype, none: null, Point: Point.prototype }[recipe.prototype]);
    case "array":
    case "windows":
      return [];
    case "map":
      return new Map();
    case "set":
      return new Set();
    case "error":
      return new ERRORS[recipe.name](recipe.message);
    case "leaf":
      return LEAVES[recipe.name]();
    case "view":
      return view(recipe);
    case "buffer":
      return recipe.isShared ? pattern(new SharedArrayBuffer(recipe.bytes)) : pattern(new ArrayBuffer(recipe.bytes));
    case "large":
      return recipe.shape === "keys" || recipe.shape === "chain" ? {} : [];
    default:
      return UNCLONEABLE[recipe.name]();
  }
}

function fill(made: object, recipe: Recipe, part: (at: Part) => unknown, isFirstChain: boolean): void {
  switch (recipe.kind) {
    case "object":
      for (const [name, at] of recipe.entries) {
        if (recipe.looks === "getters") define(made, name, { get: () => part(at), configurable: true });
        else put(made, name, part(at));
      }
      if (recipe.looks === "frozen") Object.freeze(made);
      break;
    case "array":
      recipe.parts.forEach((at, i) => at !== null && put(made, String(i), part(at)));
      (made as unknown[]).length = recipe.parts.length;
      for (const [name, at] of recipe.entries) put(made, name, part(at));
      if (recipe.looks === "frozen") Object.freeze(made);
      break;
    case "map":
      for (const [name, at] of recipe.entries) (made as Map<unknown, unknown>).set(part(name), part(at));
      break;
    case "set":
      for (const at of recipe.members) (made as Set<unknown>).add(part(at));
      break;
    case "error":
      // Both threads make this error, and their real stacks differ.
      Object.defineProperty(made, "stack", { value: `stack of ${recipe.name}` });
      if (recipe.causes.length > 0) Object.defineProperty(made, "cause", { value: chainOf(recipe.causes) });
      put(made, "field", part(recipe.field));
      break;
    case "windows": {
      const buffer = pattern(new ArrayBuffer(recipe.bytes));
      for (const one of recipe.views) (made as unknown[]).push(viewOf(one.view, buffer, one.offset, one.bytes));
      break;
    }
    case "large":
      fillLarge(made as Record<string, unknown>, recipe, part(recipe.part), isFirstChain);
      break;
    case "leaf":
    case "view":
    case "buffer":
    case "uncloneable":
      break;
  }
}

function fillLarge(
  made: Record<string, unknown>,
  { shape, count: size }: Extract<Recipe, { kind: "large" }>,
  last: unknown,
  isFirstChain: boolean,
): void {
  let at = made;
  if (shape === "chain") {
    const depth = isFirstChain ? Math.min(size, CHAIN) : 1;
    for (let i = 1; i < depth; i++) {
      const next = { i };
      at["next"] = next;
      at = next;
    }
    at["next"] = last;
    return;
  }
  for (let i = 0; i < size - 1; i++) made[shape === "keys" ? `key ${i}` : i] = shape === "rows" ? { i, last } : i;
  made[shape === "keys" ? "last" : size - 1] = last;
}

function view({ view: name, backing, bytes: wanted, offset, seed }: Extract<Recipe, { kind: "view" }>): unknown {
  if (backing === "pool") {
    const pooled = Buffer.from(Array.from({ length: wanted }, (_, i) => (seed + i) & 0xff));
    return viewOf(name, pooled.buffer, pooled.byteOffset, wanted);
  }
  const before = backing === "own" ? 0 : offset;
  // There are bytes before and after the view, also after `viewOf` has aligned it.
  const size = backing === "own" ? wanted : before + wanted + 16;
  const buffer =
    backing === "shared"
      ? new SharedArrayBuffer(size)
      : backing === "resizable"
        ? new ResizableBuffer(size, { maxByteLength: 2 * size })
        : new ArrayBuffer(size);
  return viewOf(name, pattern(buffer as ArrayBuffer, seed), before, wanted);
}

/** The types of ES2023 lack the second parameter, which every supported Node has. */
const ResizableBuffer = ArrayBuffer as unknown as new (size: number, options: { maxByteLength: number }) => ArrayBuffer;

/** The view starts at the next multiple of its element size, and has as many elements as fit. */
function viewOf(name: ViewName, buffer: ArrayBuffer, from: number, wanted: number): ArrayBufferView {
  if (name === "Buffer") return VIEWS.Buffer(buffer, from, wanted);
  const made = VIEWS[name] as ViewMaker & { readonly BYTES_PER_ELEMENT?: number };
  const each = made.BYTES_PER_ELEMENT ?? 1;
  const offset = Math.ceil(from / each) * each;
  const end = Math.min(from + wanted, buffer.byteLength);
  return new made(
    buffer,
    Math.min(offset, buffer.byteLength - (buffer.byteLength % each)),
    Math.max(0, Math.floor((end - offset) / each)),
  );
}

function pattern<T extends ArrayBufferLike>(buffer: T, seed = 1): T {
  new Uint8Array(buffer).forEach((_, i, all) => (all[i] = seed + i));
  return buffer;
}

function detached<T extends ArrayBufferView>(made: T): T {
  structuredClone(made, { transfer: [made.buffer as ArrayBuffer] });
  return made;
}

/** Makes an own property even of "__proto__", while an assignment would set the prototype. */
function put(object: object, name: string, value: unknown): void {
  define(object, name, { value, configurable: true, writable: true });
}

function define(object: object, name: string, property: PropertyDescriptor): void {
  Object.defineProperty(object, name, { enumerable: true, ...property });
}

function printPrimitive(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value.length > 20 ? `${value.slice(0, 20)}…` : value);
  return Object.is(value, -0) ? "-0" : `${String(value)}${typeof value === "bigint" ? "n" : ""}`;
}

function chainOf(messages: readonly string[]): Error {
  const [message, ...deeper] = messages;
  const error = new Error(message, deeper.length > 0 ? { cause: chainOf(deeper) } : {});
  return Object.defineProperty(error, "stack", { value: `stack of ${message}` });
}
