import { types } from "node:util";
import * as threads from "node:worker_threads";
import type { Transferable } from "node:worker_threads";
import { type Container, isDense, isPlainArray, isPlainObject, isPrimitive, MAX_ENTRIES, put } from "../core/plain.js";
import {
  AS_IT_IS,
  BUFFER_OF_BYTES,
  BUFFER_ON_MOVED,
  copyOf,
  type Crossing,
  isBound,
  isDetached,
  kindOf,
  type Make,
  OWN_BYTES,
  ViewParts,
} from "./crossing.js";
import { textOfView } from "./small-copy.js";

/** A value as it crosses in a message of its own. */
export interface LoneCrossing extends Crossing {
  readonly transferList: readonly Transferable[];
}

/** Parts that are nested more deeply cross as they are. */
const MAX_DEPTH = 200;

/**
 * Prepares a value for a message of its own: the value itself, or a copy of its containers if it has Buffers or views of a
 * part of their buffer. A listed ArrayBuffer moves only if the value's views cover all of it. Otherwise it is cloned, because
 * the rest of it may belong to another value, such as the reply to another command or a neighbour in Node's pool.
 * @throws if a listed ArrayBuffer is detached, and what the value's getters throw
 */
export function crossAlone(value: unknown, transferList: readonly Transferable[] = []): LoneCrossing {
  const moving = movable(value, transferList);
  const views = typeof value === "object" && value !== null ? surveyViews(value) : NO_VIEWS;
  if (!views.areThere) return { value, make: AS_IT_IS, transferList: moving };
  let copier = new WholeCopier(moving, views.isAllPlain);
  let copy = copier.copy(value as object);
  if (copier.isTooDeep && views.isAllPlain) {
    copier = new WholeCopier(moving, false);
    copy = copier.copy(value as object);
  }
  return { value: copy, make: copier.make, transferList: [...moving, ...copier.moving] };
}

/** Copies the containers on the way to views, and gives each view a buffer of its own bytes. */
class WholeCopier {
  readonly #views = new ViewParts();
  /** A part was too deep to be copied, although parts that refer to it may be copies. */
  isTooDeep = false;
  /** The buffers of large copies. They may move because nothing else refers to them. */
  readonly moving: ArrayBuffer[] = [];
  readonly #moving: ReadonlySet<unknown>;
  readonly #mayCopy: boolean;
  readonly #copies = new Map<object, unknown>();

  /**
   * `moving` are buffers that move as they are. Without `mayCopy` the receiver does all the work, because a part that is not
   * plain stays as it is and would go on to refer to the originals.
   */
  constructor(moving: readonly Transferable[], mayCopy: boolean) {
    this.#moving = new Set<unknown>(moving);
    this.#mayCopy = mayCopy;
  }

  get make(): Make {
    return this.#views.make;
  }

  copy(value: object): unknown {
    if (ArrayBuffer.isView(value)) return this.#mayCopy ? this.#view(value) : this.#mark(value);
    const copied = this.#copies.get(value);
    if (copied !== undefined) return copied;
    const isArray = isPlainArray(value);
    // A container without objects has no view. A part that is not plain stays as it is, with everything below it.
    if (!(isArray || isPlainObject(value)) || !refersToObjects(value)) return value;
    if (this.#views.path.length >= MAX_DEPTH) {
      this.isTooDeep = true;
      return value;
    }
    const copy = (this.#mayCopy ? (isArray ? copyOfArray(value) : { ...value }) : value) as unknown as Container;
    this.#copies.set(value, copy);
    for (const key of Object.keys(copy)) {
      const part = copy[key];
      if (typeof part !== "object" || part === null) continue;
      this.#views.path.push(key);
      const partCopy = this.copy(part);
      if (partCopy !== part) put(copy, key, partCopy);
      this.#views.path.pop();
    }
    return copy;
  }

  #view(view: ArrayBufferView): unknown {
    const known = this.#views.known(view);
    if (known) return known.copy;
    const { buffer, byteLength } = view;
    const kind = kindOf(view);
    const isOurs = kind !== undefined && !isBound(buffer) && !this.#moving.has(buffer);
    const short = isOurs ? textOfView(view) : undefined;
    if (short) {
      this.#views.remember(view, short.value, short.make);
      return short.value;
    }
    const copy = isOurs && byteLength < buffer.byteLength ? this.#trim(view, kind) : view;
    this.#views.remember(view, copy, Buffer.isBuffer(view) ? this.#bufferOf(view) : AS_IT_IS);
    return copy;
  }

  #bufferOf({ buffer }: Buffer): number {
    return this.#moving.has(buffer) ? BUFFER_ON_MOVED : BUFFER_OF_BYTES;
  }

  #mark(view: ArrayBufferView): unknown {
    if (this.#views.known(view)) return view;
    const { buffer, byteLength } = view;
    const isPart = !isBound(buffer) && !this.#moving.has(buffer) && byteLength < buffer.byteLength;
    this.#views.remember(view, view, Buffer.isBuffer(view) ? this.#bufferOf(view) : isPart ? OWN_BYTES : AS_IT_IS);
    return view;
  }

  #trim(view: ArrayBufferView, kind: number): unknown {
    const copy = copyOf(view, kind);
    this.moving.push(copy.buffer as ArrayBuffer);
    return copy;
  }
}

function copyOfArray(array: readonly unknown[]): unknown[] {
  if (isDense(array)) return array.slice();
  const copy: unknown[] = [];
  copy.length = array.length;
  for (const key of Object.keys(array)) put(copy as unknown as Container, key, (array as unknown as Container)[key]);
  return copy;
}

function refersToObjects(container: object): boolean {
  if (Array.isArray(container) && isDenselyPrimitive(container)) return false;
  for (const key in container) {
    const part = (container as Container)[key];
    if (typeof part === "object" && part !== null) return true;
  }
  return false;
}

/** Most long arrays hold numbers. To visit each index by name would cost more than to clone the array. */
function isDenselyPrimitive(array: readonly unknown[]): boolean {
  return array.length > MAX_ENTRIES && Object.values(array).every(isPrimitive);
}

interface ViewSurvey {
  /** Whether plain objects and arrays lead to a Buffer or another view. */
  readonly areThere: boolean;
  /** Whether no part on the way can refer back to a part that would be copied. */
  readonly isAllPlain: boolean;
}

const NO_VIEWS: ViewSurvey = { areThere: false, isAllPlain: true };

function surveyViews(value: object): ViewSurvey {
  const seen = new Set<object>([value]);
  const add = (part: unknown): void => {
    if (typeof part === "object" && part !== null) seen.add(part);
  };
  let areThere = false;
  let isAllPlain = true;
  for (const node of seen) {
    if (ArrayBuffer.isView(node)) areThere = true;
    // Not by its length: a sparse array may have billions of holes.
    else if (isPlainArray(node)) Object.values(node).forEach(add);
    else if (isPlainObject(node)) for (const key in node) add((node as Container)[key]);
    else isAllPlain &&= types.isDate(node) || types.isRegExp(node) || types.isAnyArrayBuffer(node);
  }
  return { areThere, isAllPlain };
}

/** The objects of the transfer list that may move. */
function movable(value: unknown, transferList: readonly Transferable[]): readonly Transferable[] {
  if (!transferList.some(types.isArrayBuffer)) return transferList;
  const isCovered = coverageOf(value);
  return transferList.filter((one) => {
    if (!types.isArrayBuffer(one)) return true;
    if (isDetached(one)) throw new Error("an ArrayBuffer of the transfer list was moved away before");
    return isCovered(one) && !isUntransferable(one);
  });
}

/** Node 20 cannot tell, and clones such a buffer by itself. */
function isUntransferable(buffer: ArrayBuffer): boolean {
  const { isMarkedAsUntransferable } = threads as { isMarkedAsUntransferable?: (object: object) => boolean };
  return isMarkedAsUntransferable?.(buffer) ?? false;
}

/** Tells of a buffer whether the value sees all of it, so that no other value loses a part of it. */
function coverageOf(value: unknown): (buffer: ArrayBuffer) => boolean {
  const seen = new Set<unknown>([value]);
  const viewsOf = new Map<unknown, ArrayBufferView[]>();
  for (const node of seen) {
    if (typeof node !== "object" || node === null) continue;
    if (ArrayBuffer.isView(node)) {
      const views = viewsOf.get(node.buffer);
      if (views) views.push(node);
      else viewsOf.set(node.buffer, [node]);
    } else if (!types.isAnyArrayBuffer(node)) for (const part of partsOf(node)) seen.add(part);
  }
  return (buffer) => {
    if (seen.has(buffer)) return true;
    let end = 0;
    const views = (viewsOf.get(buffer) ?? []).toSorted((a, b) => a.byteOffset - b.byteOffset);
    for (const { byteOffset, byteLength } of views) {
      if (byteOffset > end) return false;
      end = Math.max(end, byteOffset + byteLength);
    }
    return views.length > 0 && end === buffer.byteLength;
  };
}

/** The parts that a structured clone goes on to. */
function partsOf(node: object): Iterable<unknown> {
  if (types.isMap(node)) return [...node.keys(), ...node.values()];
  if (types.isSet(node)) return node;
  if (types.isNativeError(node)) return [node.cause];
  return Object.values(node);
}
