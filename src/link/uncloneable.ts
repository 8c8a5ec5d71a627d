import { types } from "node:util";
import { isPlainObject, isPrimitive } from "../core/plain.js";
import { isDetached } from "./crossing.js";

/** The search blocks its thread: 200 000 parts take about 50 ms. For a larger value the path is that of the whole value. */
const MAX_LOOKS = 200_000;

/** Of a longer path only the two ends are shown. */
const MAX_STEPS = 20;

/** A part of the searched value, and the way back to the root. */
interface Place {
  readonly part: unknown;
  readonly key: string | number;
  readonly parent: Place | undefined;
}

/**
 * The path to the first part of `value` that cannot be cloned, such as `input.rows[3].onDone`. Undefined if there is none, for
 * instance because the value is only nested too deeply. Looks at each part once. Never throws.
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
    for (const child of children.toReversed()) stack.push(child); // so that the first child is popped next
  }
  return undefined;
}

/** Whether structured cloning threw this because the value is nested so deeply that the stack was used up. */
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

/** The parts that cloning goes on to, without primitives, or undefined if this very part cannot be cloned. */
function childrenOf(place: Place): Place[] | undefined {
  const { part } = place;
  if (typeof part !== "object" || types.isProxy(part) || types.isPromise(part)) return undefined;
  if (ArrayBuffer.isView(part)) return isDetached(part.buffer) ? undefined : [];
  if (types.isAnyArrayBuffer(part)) return isDetached(part) ? undefined : [];
  let entries: Iterable<readonly [string | number, unknown]>;
  try {
    entries = entriesOf(part!);
  } catch {
    return undefined; // a getter throws
  }
  const children: Place[] = [];
  for (const [key, child] of entries) if (!isPrimitive(child)) children.push({ part: child, key, parent: place });
  // An object without children is cheap to try: a WeakMap, a handle of Node, an instance of a class.
  const isPlain = Array.isArray(part) || isPlainObject(part!);
  return children.length > 0 || isPlain || isCloneable(part) ? children : undefined;
}

function entriesOf(part: object): Iterable<readonly [string | number, unknown]> {
  if (types.isMap(part)) return [...part].flatMap(([key, value], i) => [[i, key] as const, [i, value] as const]);
  if (types.isSet(part)) return [...part].map((value, i) => [i, value] as const);
  if (types.isNativeError(part)) return [["cause", part.cause]];
  return Object.entries(part); // for arrays as well: they may have other names beside the indices, and holes take no time
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
