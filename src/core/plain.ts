import { types } from "node:util";

export type Key = string | number;
export type Container = Record<Key, unknown>;

/** Plain objects, arrays and views of a small value: to copy more would weigh on every call. */
export const MAX_NODES = 64;
/** Entries of one object or array of it. */
export const MAX_ENTRIES = 256;

/** Nothing of it can be changed by its owner, and nothing of it is shared by cloning. */
export function isPrimitive(value: unknown): boolean {
  if (typeof value === "object") return value === null;
  return typeof value !== "function" && typeof value !== "symbol";
}

/** Of whatever realm: test runners have several. */
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

/** An array, no instance of a class that extends Array, and no Proxy. `Array.prototype` is an array in every realm. */
export function isPlainArray(value: object): value is unknown[] {
  if (!Array.isArray(value) || types.isProxy(value)) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Array.prototype || Array.isArray(prototype);
}

/** Without holes, and without names beside its indices, which come first: a regular expression's match has such. */
export function isDense(array: readonly unknown[]): boolean {
  const { length } = array;
  const names = Object.keys(array);
  return names.length === length && (length === 0 || names[length - 1] === String(length - 1));
}

/** As a clone has it: not what an assignment to `__proto__` would do. */
export function put(holder: Container, key: Key, value: unknown): void {
  if (key !== "__proto__") holder[key] = value;
  else Object.defineProperty(holder, key, { value, configurable: true, enumerable: true, writable: true });
}
