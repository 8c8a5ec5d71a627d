import { createHash } from "node:crypto";
import { types } from "node:util";

/** Longer bytes are shown by their length and a hash, so that a failure stays readable. */
const HEX_BYTES = 48;

/**
 * Everything that a program can see of a value, as one canonical text: types, keys in their order, holes, bytes, and
 * which objects are identical. Two values have the same description exactly if no program could tell them apart, with
 * three exceptions: whether two views share memory, the rest of a view's buffer, and whether a view that is reached
 * both through plain objects and arrays and otherwise is one object in both places. `withoutViewNumbers` leaves out
 * which views are one object.
 */
export function describe(value: unknown): string {
  return new Describer(value).text;
}

export function withoutViewNumbers(description: string): string {
  return description.replaceAll(/ @\d+/g, "");
}

/**
 * Changes every container and every byte in reach, so that values that share them show it. Shared memory stays as it
 * is.
 */
export function scribble(value: unknown): void {
  const seen = new Set<object>();
  const queue = [value];
  for (const part of queue) {
    if (typeof part !== "object" || part === null || seen.has(part)) continue;
    seen.add(part);
    queue.push(...partsOf(part));
  }
  for (const object of seen) scribbleOn(object);
}

/** Reads an own property, also one with the name "__proto__". */
export function ownPart(object: object, key: string): unknown {
  return Object.getOwnPropertyDescriptor(object, key)?.get ? Reflect.get(object, key) : ownValue(object, key);
}

/** Whether `arrive` looks for views inside of this object: it is an object literal, or has no prototype. */
export function isPlain(object: object): boolean {
  if (types.isProxy(object)) return false;
  if (Array.isArray(object)) return Object.getPrototypeOf(object) === Array.prototype;
  const prototype: unknown = Object.getPrototypeOf(object);
  return prototype === null || prototype === Object.prototype;
}

/** A detached view throws when its length is read. */
export function isDetached(part: ArrayBufferLike | ArrayBufferView): boolean {
  const buffer = ArrayBuffer.isView(part) ? part.buffer : part;
  if (types.isSharedArrayBuffer(buffer)) return false;
  try {
    return new Uint8Array(buffer).byteLength < 0;
  } catch {
    return true; // only a detached buffer refuses a view of all of it
  }
}

class Describer {
  readonly text: string;
  /** The objects that are reached through plain objects and arrays only. */
  readonly #plain = new Set<object>();
  readonly #numbers = new Map<object, number>();
  readonly #plainViews = new Map<object, number>();
  /** A view has another number in other places, see `describe`. */
  readonly #otherViews = new Map<object, number>();

  constructor(value: unknown) {
    const queue = [value];
    for (const part of queue) {
      if (typeof part !== "object" || part === null || this.#plain.has(part)) continue;
      const isContainer = isPlain(part);
      if (isContainer || ArrayBuffer.isView(part)) this.#plain.add(part);
      if (isContainer) queue.push(...partsOf(part));
    }
    this.text = this.#part(value, true);
  }

  #part(part: unknown, inPlain: boolean): string {
    if (typeof part === "function") return "a function";
    if (typeof part === "object" && part !== null) return this.#object(part, inPlain);
    return describePrimitive(part);
  }

  #object(object: object, inPlain: boolean): string {
    if (ArrayBuffer.isView(object)) return `${this.#body(object, inPlain)} @${this.#viewNumber(object, inPlain)}`;
    const known = this.#numbers.get(object);
    if (known !== undefined) return `=#${known}`;
    const number = this.#numbers.size;
    this.#numbers.set(object, number);
    return `#${number} ${this.#body(object, inPlain)}`;
  }

  #viewNumber(view: object, inPlain: boolean): number {
    const numbers = inPlain ? this.#plainViews : this.#otherViews;
    if (!numbers.has(view)) numbers.set(view, this.#plainViews.size + this.#otherViews.size);
    return numbers.get(view)!;
  }

  #body(object: object, inPlain: boolean): string {
    if (types.isProxy(object)) return "Proxy";
    if (ArrayBuffer.isView(object)) return this.#view(object, inPlain);
    if (types.isAnyArrayBuffer(object)) return `${tagOf(object)} ${bytesOf(object)}`;
    if (types.isPromise(object) || types.isWeakMap(object)) return tagOf(object);
    const reach = this.#plain.has(object);
    const own = this.#entries(object, reach);
    if (types.isDate(object)) return `Date ${object.getTime()}${own}`;
    if (types.isRegExp(object)) return `RegExp ${String(object)} at ${object.lastIndex}${own}`;
    if (types.isBoxedPrimitive(object)) return `${tagOf(object)} ${describePrimitive(object.valueOf())}`;
    if (types.isMap(object)) {
      const entries = [...object].map((pair) => pair.map((part) => this.#part(part, reach)).join(" => "));
      return `Map(${entries.join(", ")})${own}`;
    }
    if (types.isSet(object)) return `Set(${[...object].map((part) => this.#part(part, reach)).join(", ")})${own}`;
    if (types.isNativeError(object)) return this.#error(object, own);
    return `${prototypeOf(object)}${Object.isExtensible(object) ? "" : "frozen "}${own}`;
  }

  #view(view: ArrayBufferView, inPlain: boolean): string {
    if (isDetached(view)) return "a detached view";
    // A view that is also in plain reach may be the same object here, therefore a Buffer, or another object.
    const isBuffer = Buffer.isBuffer(view) && (inPlain || !this.#plain.has(view));
    const isShared = types.isSharedArrayBuffer(view.buffer);
    const isWhole = view.byteOffset === 0 && view.buffer.byteLength === view.byteLength;
    const where = isShared ? " in shared memory" : inPlain && !isWhole ? " in a larger buffer" : "";
    return `${isBuffer ? "Buffer" : tagOf(view)} ${bytesOf(view)}${where}`;
  }

  #error(error: Error, own: string): string {
    const cause = Object.hasOwn(error, "cause") ? `, cause: ${this.#part(error.cause, false)}` : "";
    return `Error(${[error.name, error.message, error.stack].map(describePrimitive).join(", ")}${cause})${own}`;
  }

  /** The own enumerable properties, as structured cloning sees them. */
  #entries(object: object, inPlain: boolean): string {
    const isArray = Array.isArray(object);
    const texts: string[] = [];
    if (isArray) for (let i = 0; i < object.length; i++) if (!Object.hasOwn(object, i)) texts.push(`${i}: hole`);
    for (const key of Object.keys(object)) {
      const isGetter = !("value" in Object.getOwnPropertyDescriptor(object, key)!);
      texts.push(`${isGetter ? "get " : ""}${JSON.stringify(key)}: ${this.#part(ownPart(object, key), inPlain)}`);
    }
    if (isArray) return `[${texts.join(", ")}]`;
    return isPlain(object) || texts.length > 0 ? `{${texts.join(", ")}}` : "";
  }
}

function describePrimitive(part: unknown): string {
  if (typeof part === "string") return JSON.stringify(part);
  if (typeof part === "bigint") return `${part}n`;
  return Object.is(part, -0) ? "-0" : String(part);
}

function bytesOf(part: ArrayBufferLike | ArrayBufferView): string {
  if (isDetached(part)) return "detached";
  const bytes = asBytes(part);
  if (bytes.length <= HEX_BYTES) return `<${bytes.toString("hex")}>`;
  return `<${bytes.length} bytes, SHA-1 ${createHash("sha1").update(bytes).digest("hex")}>`;
}

function asBytes(part: ArrayBufferLike | ArrayBufferView): Buffer {
  if (!ArrayBuffer.isView(part)) return Buffer.from(part as ArrayBuffer);
  return Buffer.from(part.buffer as ArrayBuffer, part.byteOffset, part.byteLength);
}

/** The name of the built-in type, whatever the name of the object's class is. */
function tagOf(object: object): string {
  return Object.prototype.toString.call(object).slice("[object ".length, -1);
}

/** Empty for an ordinary object or array. */
function prototypeOf(object: object): string {
  const prototype: unknown = Object.getPrototypeOf(object);
  if (prototype === Object.prototype || prototype === Array.prototype) return "";
  return prototype === null
    ? "null-prototype "
    : `${(prototype as { constructor?: { name?: string } }).constructor?.name} `;
}

function ownValue(object: object, key: string): unknown {
  return Object.getOwnPropertyDescriptor(object, key)?.value as unknown;
}

function partsOf(object: object): unknown[] {
  if (types.isProxy(object) || ArrayBuffer.isView(object) || types.isAnyArrayBuffer(object)) return [];
  const own = Object.keys(object).map((key) => ownPart(object, key));
  if (types.isMap(object)) return [...own, ...[...object].flat()];
  if (types.isSet(object)) return [...own, ...object];
  if (types.isNativeError(object)) return [...own, object.cause];
  return own;
}

function scribbleOn(object: object): void {
  if (ArrayBuffer.isView(object) || types.isAnyArrayBuffer(object)) {
    const buffer = ArrayBuffer.isView(object) ? object.buffer : object;
    if (!types.isSharedArrayBuffer(buffer)) asBytes(object).fill(0xee);
    return;
  }
  Reflect.defineProperty(object, "scribbled", { value: true, enumerable: true });
  if (types.isMap(object)) object.set("scribbled", true);
  else if (types.isSet(object)) object.add("scribbled");
  else if (types.isDate(object)) object.setTime(1);
  else if (types.isNativeError(object)) Object.defineProperty(object, "message", { value: "scribbled" });
}
