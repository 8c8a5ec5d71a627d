import { types } from "node:util";
import { describe, isPlain, ownPart } from "./describe-value.js";

/**
 * The form in which a value arrives in another thread that a task gets, returns or reports. It is what
 * `structuredClone` returns for this one value alone, however many others cross at the same time, with two exceptions.
 *
 * 1. A Buffer that is the value itself, or is reached through plain objects and arrays only, arrives as a Buffer.
 * Anywhere else, in a Map, a Set, a class instance or an error, it arrives as a Uint8Array.
 * 2. A view that is reached in the same way arrives with a buffer of exactly its own bytes, unless its memory is shared
 * or resizable. The same view twice stays one object. Whether two views share memory afterwards is not specified, and
 * neither is whether a view that is also reached in another way is the same object there.
 *
 * Throws what `structuredClone` throws: such a value is refused with REDTHREAD_NOT_CLONEABLE, which affects only its
 * own task.
 */
export function arrive(value: unknown): unknown {
  return new Arrival().of(value, structuredClone(value));
}

/** As `arrive`, but undefined if the value is refused. */
export function arrival(value: unknown): { readonly value: unknown } | undefined {
  try {
    return { value: arrive(value) };
  } catch {
    return undefined; // the refusal is the answer
  }
}

/**
 * The form in which a caller sees an error of its task: name, message, stack, own fields, causes and an aggregate's
 * errors. With `across` it is the form in which the error arrives: each field is a separate value, and a refused field
 * is left out.
 */
export function describeThrown(error: unknown, across: typeof arrival = (value) => ({ value })): string {
  if (!types.isNativeError(error)) {
    const arrived = across(error) ?? { value: String(error) };
    return describe(arrived.value);
  }
  const { name, message, stack, cause, errors } = error as Error & { errors?: unknown[] };
  const fields = Object.keys(error).flatMap((key) => {
    if (NAMED_PARTS.has(key)) return [];
    const arrived = across(ownPart(error, key));
    return arrived ? [`${key}: ${describe(arrived.value)}`] : [];
  });
  const below = errors?.map((one) => describeThrown(one, across));
  return [
    `${name}: ${message}`,
    `stack: ${stack}`,
    ...fields,
    ...(cause === undefined ? [] : [`cause: (${describeThrown(cause, across)})`]),
    ...(below ? [`errors: (${below.join("), (")})`] : []),
  ].join("; ");
}

/** A class may declare them as fields; they arrive in another way. */
const NAMED_PARTS = new Set(["name", "message", "stack", "cause", "errors"]);

/** Applies the two exceptions to a clone, with its original beside it. */
class Arrival {
  readonly #seen = new Set<object>();
  readonly #views = new Map<object, unknown>();

  of(original: unknown, clone: unknown): unknown {
    if (typeof original !== "object" || original === null) return clone;
    if (ArrayBuffer.isView(original)) return this.#view(original, clone as ArrayBufferView);
    if (!isPlain(original) || this.#seen.has(original)) return clone;
    this.#seen.add(original);
    for (const key of Object.keys(original)) {
      const part = ownPart(clone as object, key);
      const arrived = this.of(ownPart(original, key), part);
      if (arrived === part) continue;
      Object.defineProperty(clone, key, { value: arrived, configurable: true, enumerable: true, writable: true });
    }
    return clone;
  }

  #view(original: ArrayBufferView, clone: ArrayBufferView): unknown {
    if (!this.#views.has(original)) this.#views.set(original, this.#made(original, clone));
    return this.#views.get(original);
  }

  #made(original: ArrayBufferView, clone: ArrayBufferView): unknown {
    const isBound =
      types.isSharedArrayBuffer(original.buffer) || (original.buffer as { resizable?: boolean }).resizable === true;
    const { buffer, byteOffset, byteLength } = clone;
    if (isBound) return Buffer.isBuffer(original) ? Buffer.from(buffer as ArrayBuffer, byteOffset, byteLength) : clone;
    const own = buffer.slice(byteOffset, byteOffset + byteLength) as ArrayBuffer;
    if (Buffer.isBuffer(original)) return Buffer.from(own);
    return new (clone.constructor as new (bytes: ArrayBuffer) => unknown)(own);
  }
}
