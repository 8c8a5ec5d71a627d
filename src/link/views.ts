import { types } from "node:util";

type ViewMaker = new (buffer: ArrayBuffer) => ArrayBufferView;

/** So small a view has no buffer until somebody asks for it, as native code does; a loop of JavaScript does not. */
const ON_HEAP_BYTES = 64;

const BUFFER = 0;
const BYTES = 1;

/** The kinds of views by the numbers under which they cross. Node 24 has one more than Node 20. */
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
].filter((made) => made !== undefined) as unknown as ViewMaker[];

const KIND_OF_NAME = new Map(KINDS.map(({ name }, kind) => [name, kind]));

/** Of what a typed array is, whatever its class says. */
const typedArrayName = Object.getOwnPropertyDescriptor(
  Object.getPrototypeOf(Uint8Array.prototype) as object,
  Symbol.toStringTag,
) as { get(this: void): string | undefined };

/** Undefined where this side does not know the kind. */
export function kindOf(view: ArrayBufferView): number | undefined {
  if (Buffer.isBuffer(view)) return BUFFER;
  return KIND_OF_NAME.get((Reflect.apply(typedArrayName.get, view, []) as string | undefined) ?? "DataView");
}

/** Of its bytes, each a character. */
export function textOf(view: ArrayBufferView): string {
  if (Buffer.isBuffer(view)) return view.toString("latin1");
  return Buffer.from(view.buffer as ArrayBuffer, view.byteOffset, view.byteLength).toString("latin1");
}

export function viewOf(kind: number, text: string): ArrayBufferView {
  const { length } = text;
  const bytes = Buffer.allocUnsafeSlow(length); // not of the pool, whose buffer other values are in
  if (length > ON_HEAP_BYTES) bytes.write(text, 0, length, "latin1");
  else for (let i = 0; i < length; i++) bytes[i] = text.charCodeAt(i);
  return kind === BUFFER ? bytes : viewOn(kind, bytes.buffer);
}

/** A copy with a buffer of its own bytes alone, as a Uint8Array where it is a Buffer. */
export function copyOf(view: ArrayBufferView, kind: number): ArrayBufferView {
  const { buffer, byteOffset, byteLength } = view;
  const own = Buffer.allocUnsafeSlow(byteLength);
  own.set(new Uint8Array(buffer, byteOffset, byteLength));
  return viewOn(kind, own.buffer);
}

/** Of a whole buffer. */
export function viewOn(kind: number, buffer: ArrayBuffer): ArrayBufferView {
  return kind === BUFFER || kind === BYTES ? new Uint8Array(buffer) : new KINDS[kind]!(buffer);
}

/** The view with a buffer of its own bytes alone, unless it is bound to the one it has; as a Buffer if it was one. */
export function ownView(view: ArrayBufferView, isBuffer: boolean): ArrayBufferView {
  const { buffer, byteOffset, byteLength } = view;
  const isOwn = byteLength === buffer.byteLength || isBound(buffer);
  const bytes = Buffer.from(buffer as ArrayBuffer, byteOffset, byteLength);
  if (isOwn) return isBuffer ? bytes : view;
  const own = new Uint8Array(bytes).buffer; // not of the pool
  return isBuffer ? Buffer.from(own) : viewOn(kindOf(view) ?? BYTES, own);
}

/** Shared memory stays shared, and a resizable buffer resizable: their views are no copies. */
export function isBound(buffer: ArrayBufferLike): boolean {
  return types.isSharedArrayBuffer(buffer) || (buffer as { resizable?: boolean }).resizable === true;
}

/** Also whether it is an ArrayBuffer that was moved away before. */
export function isDetached(buffer: ArrayBufferLike): boolean {
  if (buffer.byteLength > 0 || types.isSharedArrayBuffer(buffer)) return false;
  try {
    return new DataView(buffer).byteLength > 0; // it throws on one that is detached
  } catch {
    return true;
  }
}
