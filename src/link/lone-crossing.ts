import { types } from "node:util";
import type { Transferable } from "node:worker_threads";
import { type Container, isDense, isPlainArray, isPlainObject, isPrimitive, MAX_ENTRIES, put } from "../core/plain.js";
import { AS_IT_IS, BUFFER_OF_BYTES, BUFFER_ON_MOVED, type Crossing, type Make, OWN_BYTES, ViewParts } from "./make.js";
import { movable } from "./movable.js";
import { textOfView } from "./small-copy.js";
import { copyOf, isBound, kindOf } from "./views.js";

/** A value that crosses in a message of its own. */
export interface LoneCrossing extends Crossing {
  readonly transferList: readonly Transferable[];
}

/** What is nested more deeply crosses as it is. */
const MAX_DEPTH = 200;

/**
 * For a message of its own: the value itself, or a copy of its containers where it has Buffers, or views of a part of their
 * buffer. A listed ArrayBuffer moves only if the value's views cover all of it, because somebody else may see the rest: the
 * reply to another command, a neighbour in Node's pool. It is cloned otherwise.
 * @throws where a listed ArrayBuffer is detached, and what the value's getters throw
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

/** Copies the containers on the way to views, and gives each view the bytes that are its own. */
class WholeCopier {
  readonly #views = new ViewParts();
  /** Something stayed as it is although other parts that refer to it may be copies. */
  isTooDeep = false;
  /** Of the copies it made, the large ones: nobody else has them. */
  readonly moving: ArrayBuffer[] = [];
  readonly #moving: ReadonlySet<unknown>;
  readonly #mayCopy: boolean;
  readonly #copies = new Map<object, unknown>();

  /**
   * `moving`: buffers that move as they are. Without `mayCopy` the receiver does what is to be done: what is not plain, and
   * stays, would go on to refer to the originals.
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
    // What refers to nothing may stay: no view is below it. What is not plain stays with all that is below it.
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

  /** A large one moves: nobody else has it. */
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

/** Most long arrays are of numbers: to name each index would cost more than to clone it. */
function isDenselyPrimitive(array: readonly unknown[]): boolean {
  return array.length > MAX_ENTRIES && Object.values(array).every(isPrimitive);
}

interface ViewSurvey {
  /** Buffers and other views, in reach through plain objects and arrays. */
  readonly areThere: boolean;
  /** Nothing that is met on the way can refer back to what would be copied. */
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
    // By its values: a sparse array has a length that nobody can walk through.
    else if (isPlainArray(node)) Object.values(node).forEach(add);
    else if (isPlainObject(node)) for (const key in node) add((node as Container)[key]);
    else isAllPlain &&= types.isDate(node) || types.isRegExp(node) || types.isAnyArrayBuffer(node);
  }
  return { areThere, isAllPlain };
}
