import { types } from "node:util";
import { isPlainObject, isPrimitive } from "../core/plain.js";
import { isDetached } from "./views.js";

/** The search holds up its thread: 200 000 parts take some 50 ms. In a larger value the culprit is named by the whole. */
const MAX_LOOKS = 200_000;

/** A longer path is shown by its two ends. */
const MAX_STEPS = 20;

/** A part of the searched value, and its way back. */
interface Place {
  readonly part: unknown;
  readonly key: string | number;
  readonly parent: Place | undefined;
}

/**
 * Where in `value` the first part sits that structured cloning refuses, e.g. `input.rows[3].onDone`; undefined where
 * none is found, as where the value is only nested too deeply. Looks at each part once. Never throws.
 */
export function uncloneablePath(value: unknown, root: string): string | undefined {
  const seen = new Set<unknown>();
  const stack: Place[] = [{ part: value, key: root, parent: undefined }];
  for (let place = stack.pop(); place; place = stack.pop()) {
    const { part } = place;
    if (isPrimitive(part) || seen.has(part)) continue;
    if (seen.size > MAX_LOOKS) return root;
    seen.add(part);
    const children = childrenOf(place);
    if (!children) return pathOf(place);
    for (const child of children.toReversed()) stack.push(child); // the first one is the next
  }
  return undefined;
}

/** Whether a clone threw this because the value is nested so deeply that its recursion ran out of stack. */
export function isTooDeep(cause: unknown): boolean {
  return types.isNativeError(cause) && cause.name === "RangeError" && /call stack/.test(cause.message);
}

export function isCloneable(value: unknown): boolean {
  if (isPrimitive(value)) return true;
  if (typeof value !== "object") return false;
  try {
    structuredClone(value);
    return true;
  } catch {
    return false; // the question was whether it throws
  }
}

/** What cloning goes on to from here, without primitives; undefined where this very part is what it refuses. */
function childrenOf(place: Place): Place[] | undefined {
  const { part } = place;
  if (typeof part !== "object" || types.isProxy(part) || types.isPromise(part)) return undefined;
  if (ArrayBuffer.isView(part)) return isDetached(part.buffer) ? undefined : [];
  if (types.isAnyArrayBuffer(part)) return isDetached(part) ? undefined : [];
  let entries: Iterable<readonly [string | number, unknown]>;
  try {
    entries = entriesOf(part!);
  } catch {
    return undefined; // a getter of it throws
  }
  const children: Place[] = [];
  for (const [key, child] of entries) if (!isPrimitive(child)) children.push({ part: child, key, parent: place });
  // An object that refers to nothing is cheap to try: a WeakMap, a handle of Node's, an instance of a class.
  const isPlain = Array.isArray(part) || isPlainObject(part!);
  return children.length > 0 || isPlain || isCloneable(part) ? children : undefined;
}

function entriesOf(part: object): Iterable<readonly [string | number, unknown]> {
  if (types.isMap(part)) return [...part].flatMap(([key, value], i) => [[i, key] as const, [i, value] as const]);
  if (types.isSet(part)) return [...part].map((value, i) => [i, value] as const);
  if (types.isNativeError(part)) return [["cause", part.cause]];
  return Object.entries(part); // of an array, too: names beside its indices count, and those that are missing take no time
}

function pathOf(place: Place): string {
  const steps: string[] = [];
  let at: Place = place;
  for (; at.parent; at = at.parent) {
    const { key } = at;
    steps.push(typeof key === "number" || /^\d+$/.test(key) ? `[${key}]` : `.${key}`);
  }
  const shown = steps.toReversed();
  if (shown.length > MAX_STEPS) shown.splice(MAX_STEPS / 2, shown.length - MAX_STEPS, " … ");
  return `${at.key}${shown.join("")}`;
}
