import { types } from "node:util";

export type Key = string | number;
export type Container = Record<Key, unknown>;

/** The most plain objects, arrays and views in a small value: to copy more would cost every call. */
export const MAX_NODES = 64;
/** The most entries of one object or array in a small value. */
export const MAX_ENTRIES = 256;

/** Whether the value is immutable, so that a clone shares nothing with it. */
export function isPrimitive(value: unknown): boolean {
  if (typeof value === "object") return value === null;
  return typeof value !== "function" && typeof value !== "symbol";
}

/** Whether it is a plain object, of any realm, because test runners have several. */
export function isPlainObject(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value);
  if (prototype === Object.prototype) return !types.isProxy(value);
  if (prototype === null) return !types.isModuleNamespaceObject(value) && !types.isProxy(value);
  return (
    Object.getPrototypeOf(prototype) === null &&
    Object.hasOwn(prototype as object, "isPrototypeOf") &&
    !types.isProxy(value)
  );
}

/** Whether it is an array, but no instance of a subclass and no Proxy. `Array.prototype` is an array in every realm. */
export function isPlainArray(value: object): value is unknown[] {
  if (!Array.isArray(value) || types.isProxy(value)) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Array.prototype || Array.isArray(prototype);
}

/** Whether the array has no holes and no names beside its indices, as the match of a regular expression has. Indices come first. */
export function isDense(array: readonly unknown[]): boolean {
  const { length } = array;
  const names = Object.keys(array);
  return names.length === length && (length === 0 || names[length - 1] === String(length - 1));
}

/** Sets a property as a clone does. An assignment to `__proto__` would set the prototype. */
export function put(holder: Container, key: Key, value: unknown): void {
  if (key !== "__proto__") holder[key] = value;
  else Object.defineProperty(holder, key, { value, configurable: true, enumerable: true, writable: true });
}
