import { types } from "node:util";
import { type Container, type Key, put } from "../core/plain.js";

// How a value crosses between threads, and how the receiver restores what a structured clone loses. small-copy.ts and
// lone-crossing.ts prepare values on the sending side.

/**
 * What the receiver has to do to restore a value: a number for the value itself, or one flat list for its parts, because a
 * flat list is cheaper to clone. For each part the list has what to do, the number of keys of the path to it, and the keys.
 * A part that is the `SAME` as another one has the path to the other one as well.
 */
export type Make = number | readonly unknown[];

export const AS_IT_IS = 0;
/** Read the JSON. */
export const FROM_JSON = 1;
/** Make a Buffer of the Uint8Array, with a buffer of its own bytes alone. */
export const BUFFER_OF_BYTES = 2;
/** Give the view a buffer of its own bytes alone. */
export const OWN_BYTES = 3;
/** Make a Buffer of the Uint8Array on its buffer, which was moved here and may have other views. */
export const BUFFER_ON_MOVED = 4;
/** Take the value that another part has become. */
const SAME = 5;
/** This number plus the kind of a view: make that view of the text of its bytes. */
export const VIEW_OF_TEXT = 6;

/** A value as it crosses to another thread. */
export interface Crossing {
  readonly value: unknown;
  readonly make: Make;
}

/** The value that was sent, restored from the value that arrived. Never throws. */
export function restored(value: unknown, make: Make): unknown {
  if (typeof make === "number") return made(value, make);
  const root: Container = { value };
  try {
    restoreParts(root, make);
  } catch {
    // A getter gave another value when the message was posted than when it was prepared. The value stays as it was posted.
  }
  return root["value"];
}

function restoreParts(root: Container, make: readonly unknown[]): void {
  for (let at = 0; at < make.length;) {
    const what = make[at] as number;
    const keys = at + 1;
    const [holder, key] = placeOf(root, make, keys);
    at = endOf(make, keys);
    if (what === SAME) {
      const [sameHolder, sameKey] = placeOf(root, make, at);
      at = endOf(make, at);
      put(holder, key, sameHolder[sameKey]);
    } else put(holder, key, made(holder[key], what));
  }
}

/** Collects what the receiver has to do with a value's views, while the sender walks through the value. */
export class ViewParts {
  readonly path: Key[] = [];
  #parts: unknown[] | undefined;
  /** With the path to the view if the receiver has to do something with it. */
  #views: Map<object, { readonly copy: unknown; readonly path: readonly Key[] | undefined }> | undefined;

  get make(): Make {
    return this.#parts ?? AS_IT_IS;
  }

  get isUsed(): boolean {
    return this.#views !== undefined || this.path.length > 0;
  }

  /** The copy of a view that was met before. */
  known(view: object): { readonly copy: unknown } | undefined {
    const known = this.#views?.get(view);
    if (known?.path) this.#add(SAME).push(known.path.length, ...known.path);
    return known;
  }

  remember(view: object, copy: unknown, what: number): void {
    if (what !== AS_IT_IS) this.#add(what);
    (this.#views ??= new Map()).set(view, { copy, path: what === AS_IT_IS ? undefined : [...this.path] });
  }

  forget(): void {
    this.path.length = 0;
    this.#parts = undefined;
    this.#views = undefined;
  }

  #add(what: number): unknown[] {
    const parts = (this.#parts ??= []);
    parts.push(what, this.path.length, ...this.path);
    return parts;
  }
}

function made(value: unknown, what: number): unknown {
  switch (what) {
    case AS_IT_IS:
      return value;
    case FROM_JSON:
      return JSON.parse(value as string);
    case BUFFER_OF_BYTES:
    case OWN_BYTES:
      return ownView(value as ArrayBufferView, what === BUFFER_OF_BYTES);
    case BUFFER_ON_MOVED: {
      const { buffer, byteOffset, byteLength } = value as Uint8Array<ArrayBuffer>;
      return Buffer.from(buffer, byteOffset, byteLength);
    }
    default:
      return viewOf(what - VIEW_OF_TEXT, value as string);
  }
}

/** The holder and the key to which a path leads. The path begins with the number of its keys. */
function placeOf(root: Container, parts: readonly unknown[], at: number): [holder: Container, key: Key] {
  let holder = root;
  let key: Key = "value";
  const end = endOf(parts, at);
  for (let i = at + 1; i < end; i++) {
    holder = holder[key] as Container;
    key = parts[i] as Key;
  }
  return [holder, key];
}

function endOf(parts: readonly unknown[], at: number): number {
  return at + 1 + (parts[at] as number);
}

type ViewMaker = new (buffer: ArrayBuffer) => ArrayBufferView;

/** V8 makes no buffer for so small a view until native code asks for it: a loop of JavaScript writes it faster. */
const ON_HEAP_BYTES = 64;

const BUFFER = 0;
const BYTES = 1;

/** The index of a class is the number of its kind. Node 24 has one class more than Node 20. */
const KINDS = [
  Buffer,
  Uint8Array,
  Int8Array,
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
  (globalThis as { Float16Array?: typeof Float32Array }).Float16Array,
].filter((one) => one !== undefined) as unknown as ViewMaker[];

const KIND_OF_NAME = new Map(KINDS.map(({ name }, kind) => [name, kind]));

/** Tells the kind of a typed array even if its class has another name. */
const typedArrayName = Object.getOwnPropertyDescriptor(
  Object.getPrototypeOf(Uint8Array.prototype) as object,
  Symbol.toStringTag,
) as { get(this: void): string | undefined };

/** The number of a view's kind, or undefined if this Node does not know it. */
export function kindOf(view: ArrayBufferView): number | undefined {
  if (Buffer.isBuffer(view)) return BUFFER;
  return KIND_OF_NAME.get((Reflect.apply(typedArrayName.get, view, []) as string | undefined) ?? "DataView");
}

/** The bytes of a view as a text, one character each. */
export function textOf(view: ArrayBufferView): string {
  if (Buffer.isBuffer(view)) return view.toString("latin1");
  return Buffer.from(view.buffer as ArrayBuffer, view.byteOffset, view.byteLength).toString("latin1");
}

/** The view whose bytes are the characters of `text`. */
export function viewOf(kind: number, text: string): ArrayBufferView {
  const { length } = text;
  const bytes = Buffer.allocUnsafeSlow(length); // the pool's buffer holds other values too
  if (length > ON_HEAP_BYTES) bytes.write(text, 0, length, "latin1");
  else for (let i = 0; i < length; i++) bytes[i] = text.charCodeAt(i);
  return kind === BUFFER ? bytes : viewOn(kind, bytes.buffer);
}

/** A copy with a buffer of its own. The copy of a Buffer is a Uint8Array. */
export function copyOf(view: ArrayBufferView, kind: number): ArrayBufferView {
  const { buffer, byteOffset, byteLength } = view;
  const own = Buffer.allocUnsafeSlow(byteLength);
  own.set(new Uint8Array(buffer, byteOffset, byteLength));
  return viewOn(kind, own.buffer);
}

/** A view of the whole buffer. */
export function viewOn(kind: number, buffer: ArrayBuffer): ArrayBufferView {
  return kind === BUFFER || kind === BYTES ? new Uint8Array(buffer) : new KINDS[kind]!(buffer);
}

/** The view, or a copy of it if its buffer has other bytes as well and may be left. With `isBuffer` the result is a Buffer. */
export function ownView(view: ArrayBufferView, isBuffer: boolean): ArrayBufferView {
  const { buffer, byteOffset, byteLength } = view;
  const isOwn = byteLength === buffer.byteLength || isBound(buffer);
  const bytes = Buffer.from(buffer as ArrayBuffer, byteOffset, byteLength);
  if (isOwn) return isBuffer ? bytes : view;
  const own = new Uint8Array(bytes).buffer; // Buffer.from(bytes) would take it from the pool
  return isBuffer ? Buffer.from(own) : viewOn(kindOf(view) ?? BYTES, own);
}

/** Whether a view of this buffer must not be copied: shared memory has to stay shared, and a resizable buffer resizable. */
export function isBound(buffer: ArrayBufferLike): boolean {
  return types.isSharedArrayBuffer(buffer) || (buffer as { resizable?: boolean }).resizable === true;
}

/** Whether the buffer was moved to another thread before. */
export function isDetached(buffer: ArrayBufferLike): boolean {
  if (buffer.byteLength > 0 || types.isSharedArrayBuffer(buffer)) return false;
  try {
    return new DataView(buffer).byteLength > 0; // throws if the buffer is detached
  } catch {
    return true;
  }
}
