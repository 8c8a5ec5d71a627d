import { types } from "node:util";

type ViewMaker = new (buffer: ArrayBuffer) => ArrayBufferView;

/** By the names under which they cross. Node 24 has one more than Node 20. */
export const VIEWS = new Map<string, ViewMaker>(
  [
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
    (globalThis as { Float16Array?: typeof Float32Array }).Float16Array,
  ].flatMap((made) => (made ? [[made.name, made as ViewMaker] as const] : [])),
);
VIEWS.set("Buffer", Uint8Array);

/** Of what a typed array is, whatever its class says. */
const typedArrayName = Object.getOwnPropertyDescriptor(
  Object.getPrototypeOf(Uint8Array.prototype) as object,
  Symbol.toStringTag,
) as { get(this: void): string | undefined };

export function nameOf(view: ArrayBufferView): string {
  return Buffer.isBuffer(view)
    ? "Buffer"
    : ((Reflect.apply(typedArrayName.get, view, []) as string | undefined) ?? "DataView");
}

export function viewOf(name: string, text: string): ArrayBufferView {
  const bytes = Buffer.allocUnsafeSlow(text.length); // not of the pool, whose buffer other values are in
  bytes.write(text, "latin1");
  return name === "Buffer" ? bytes : new (VIEWS.get(name)!)(bytes.buffer);
}

/** The view with a buffer of its own bytes alone, unless it is bound to the one it has; as a Buffer if it was one. */
export function ownView(view: ArrayBufferView, isBuffer: boolean): ArrayBufferView {
  const { buffer, byteOffset, byteLength } = view;
  const isOwn = byteLength === buffer.byteLength || isBound(buffer);
  const bytes = Buffer.from(buffer as ArrayBuffer, byteOffset, byteLength);
  if (isOwn) return isBuffer ? bytes : view;
  const own = new Uint8Array(bytes).buffer; // not of the pool
  return isBuffer ? Buffer.from(own) : new (VIEWS.get(nameOf(view))!)(own);
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
