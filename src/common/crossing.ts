import { types } from "node:util";
import type { Transferable } from "node:worker_threads";
import { movable } from "./movable.js";
import { type Container, isDense, isPlainArray, isPlainObject, isPrimitive, type Key, put } from "./plain.js";
import { isBound, nameOf, ownView, viewOf, VIEWS } from "./views.js";

/**
 * What a structured clone loses and the receiver makes again, flat, two entries each: the path below the value, and
 * how to make it. A view's name makes that view of a text of its bytes, `true` makes a Buffer of a Uint8Array, `false`
 * takes a view's own bytes out of a larger buffer, and a number is what was made for the part that many parts before.
 */
export type Parts = readonly unknown[];

/** A value as it crosses to another thread. */
export interface Crossing {
  readonly value: unknown;
  readonly parts: Parts | undefined;
}

/** A value that crosses in a message of its own. */
export interface LoneCrossing extends Crossing {
  readonly transferList: readonly Transferable[];
}

/** Plain objects, arrays and views of a small value; the copy of more would weigh on every call. */
const SMALL_NODES = 64;
/** Entries of one of its objects or arrays. */
const SMALL_ENTRIES = 256;
/** A clone makes a buffer for each view. Up to this size a text of the bytes costs less, and shares its message. */
const TEXT_BYTES = 1_024;
/** Moving a buffer costs as much as cloning one of this size. */
const MOVE_BYTES = 16_384;
/** What is nested more deeply crosses as it is. */
const MAX_DEPTH = 200;

const REFUSED = Symbol("neither small nor plain");

/**
 * A copy that nothing else refers to, so that it may share a message: a structured clone keeps identity inside of a
 * message, and two tasks would share what their values have in common. Undefined where the value is not small and plain;
 * what its getters throw comes again when it crosses alone. Never throws.
 */
export function copyIfSmall(value: unknown): Crossing | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  try {
    if (!isPlainObject(value)) return new SmallCopier().copyOf(value);
    const copy = { ...value };
    return isFlat(copy) ? { value: copy, parts: undefined } : new SmallCopier().copyOf(value, copy);
  } catch {
    return undefined;
  }
}

/**
 * For a message of its own: the value itself, or a copy of its containers where it has Buffers, or views of a part of their
 * buffer. A listed ArrayBuffer moves only if the value's views cover all of it, because somebody else may see the rest: the
 * reply to another command, a neighbour in Node's pool. It is cloned otherwise.
 * @throws where a listed ArrayBuffer is detached, and what the value's getters throw
 */
export function crossAlone(value: unknown, transferList: readonly Transferable[] = []): LoneCrossing {
  const moving = movable(value, transferList);
  const views = typeof value === "object" && value !== null ? surveyViews(value) : NO_VIEWS;
  if (!views.areThere) return { value, parts: undefined, transferList: moving };
  const copier = new WholeCopier(moving, views.isAllPlain);
  const copy = copier.copy(value as object);
  return { value: copy, parts: copier.parts, transferList: [...moving, ...copier.moving] };
}

/** Adds a value's parts to its message's: three entries each, the slot in the message's list first. */
export function addParts(to: unknown[], slot: number, parts: Parts): void {
  for (let i = 0; i < parts.length; i += 2) to.push(slot, parts[i], parts[i + 1]);
}

/** Of a message's parts those of one slot, for a message in which its value has another one. */
export function partsAt(parts: Parts, slot: number, newSlot: number): Parts {
  const found: unknown[] = [];
  for (let i = 0; i < parts.length; i += 3) if (parts[i] === slot) found.push(newSlot, parts[i + 1], parts[i + 2]);
  return found;
}

/** Makes what a message's parts say, in its list; a negative slot, `~slot`, is one of the second list. */
export function restoreParts(parts: Parts, list: readonly unknown[], second: readonly unknown[] = []): void {
  const placeOf = (at: number): [holder: Container, key: Key] => {
    const slot = parts[at] as number;
    const [lists, index] = slot < 0 ? [second, ~slot] : [list, slot];
    let holder = lists as unknown as Container;
    let key: Key = index;
    for (const next of parts[at + 1] as readonly Key[]) {
      holder = holder[key] as Container;
      key = next;
    }
    return [holder, key];
  };
  for (let at = 0; at < parts.length; at += 3) {
    const [holder, key] = placeOf(at);
    const make = parts[at + 2];
    if (typeof make === "number") {
      const [from, fromKey] = placeOf(at - 3 * make);
      put(holder, key, from[fromKey]);
    } else if (typeof make === "boolean") {
      put(holder, key, ownView(holder[key] as ArrayBufferView, make));
    } else {
      put(holder, key, viewOf(make as string, holder[key] as string));
    }
  }
}

function isFlat(object: Container): boolean {
  let entries = 0;
  for (const key in object) if (!isPrimitive(object[key]) || ++entries > SMALL_ENTRIES) return false;
  return true;
}

/** What both copiers have: identity inside of the value, and the way to where they are. */
abstract class Copier {
  parts: unknown[] | undefined;
  protected readonly path: Key[] = [];
  /** With the number of the part that makes the view, where one does. */
  #views: Map<object, { readonly copy: unknown; readonly part: number | undefined }> | undefined;

  protected part(make: string | number | boolean): number {
    this.parts ??= [];
    return this.parts.push([...this.path], make) / 2 - 1;
  }

  /** The same view once more, as what it was the first time. */
  protected knownView(view: object): { readonly copy: unknown } | undefined {
    const known = this.#views?.get(view);
    if (known?.part !== undefined) this.part((this.parts?.length ?? 0) / 2 - known.part);
    return known;
  }

  protected remember(view: object, copy: unknown, part: number | undefined): void {
    (this.#views ??= new Map()).set(view, { copy, part });
  }

  /** A text of the bytes: one copy, which nobody can change, and no buffer to be made for the way. */
  protected asText(view: ArrayBufferView, name: string): string {
    const { buffer, byteOffset, byteLength } = view;
    const text = Buffer.from(buffer as ArrayBuffer, byteOffset, byteLength).toString("latin1");
    this.remember(view, text, this.part(name));
    return text;
  }
}

/** Copies what is small and plain, down to the last byte, or refuses. */
class SmallCopier extends Copier {
  readonly #originals: object[] = [];
  readonly #copies: unknown[] = [];

  copyOf(value: object, started?: Container): Crossing | undefined {
    const copy = started ? this.#fill(value, started) : this.#copy(value);
    return copy === REFUSED ? undefined : { value: copy, parts: this.parts };
  }

  #copy(value: object): unknown {
    const at = this.#originals.indexOf(value);
    if (at !== -1) return this.#copies[at];
    if (this.#originals.length >= SMALL_NODES) return REFUSED;
    if (ArrayBuffer.isView(value)) return this.#view(value);
    if (isPlainArray(value)) return this.#array(value);
    return isPlainObject(value) ? this.#fill(value, { ...value }) : REFUSED;
  }

  #fill(value: object, copy: Container): unknown {
    this.#originals.push(value);
    this.#copies.push(copy);
    let entries = 0;
    for (const key in copy) {
      if (++entries > SMALL_ENTRIES) return REFUSED;
      if (!this.#copyEntry(copy, key)) return REFUSED;
    }
    return copy;
  }

  #array(value: unknown[]): unknown {
    if (value.length > SMALL_ENTRIES || !isDense(value)) return REFUSED;
    const copy = value.slice();
    this.#originals.push(value);
    this.#copies.push(copy);
    for (let i = 0; i < copy.length; i++) if (!this.#copyEntry(copy as unknown as Container, i)) return REFUSED;
    return copy;
  }

  #copyEntry(holder: Container, key: Key): boolean {
    const part = holder[key];
    // A key of Object.prototype, if somebody added one, is not the value's.
    if (isPrimitive(part) || !Object.hasOwn(holder, key)) return true;
    if (typeof part !== "object") return false;
    this.path.push(key);
    const copy = this.#copy(part!);
    this.path.pop();
    if (copy !== REFUSED) put(holder, key, copy);
    return copy !== REFUSED;
  }

  #view(view: ArrayBufferView): unknown {
    const known = this.knownView(view);
    if (known) return known.copy;
    const { byteLength } = view;
    const name = nameOf(view);
    if (byteLength === 0 || byteLength > TEXT_BYTES || !VIEWS.has(name) || isBound(view.buffer)) return REFUSED;
    return this.asText(view, name);
  }
}

/** Copies the containers on the way to views, and gives each view the bytes that are its own. */
class WholeCopier extends Copier {
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
    super();
    this.#moving = new Set<unknown>(moving);
    this.#mayCopy = mayCopy;
  }

  copy(value: object): unknown {
    if (ArrayBuffer.isView(value)) return this.#mayCopy ? this.#view(value) : this.#mark(value);
    const copied = this.#copies.get(value);
    if (copied !== undefined) return copied;
    const isArray = isPlainArray(value);
    // What refers to nothing may stay: no view is below it. What is not plain stays with all that is below it.
    if (this.path.length >= MAX_DEPTH || !(isArray || isPlainObject(value)) || !refersToObjects(value)) return value;
    const copy = (this.#mayCopy ? (isArray ? copyOfArray(value) : { ...value }) : value) as unknown as Container;
    this.#copies.set(value, copy);
    for (const key of Object.keys(copy)) {
      const part = copy[key];
      if (typeof part !== "object" || part === null) continue;
      this.path.push(key);
      const partCopy = this.copy(part);
      if (partCopy !== part) put(copy, key, partCopy);
      this.path.pop();
    }
    return copy;
  }

  #view(view: ArrayBufferView): unknown {
    const known = this.knownView(view);
    if (known) return known.copy;
    const { buffer, byteLength } = view;
    const name = nameOf(view);
    const isOurs = VIEWS.has(name) && !isBound(buffer) && !this.#moving.has(buffer);
    if (isOurs && byteLength > 0 && byteLength <= TEXT_BYTES) return this.asText(view, name);
    const copy = isOurs && byteLength < buffer.byteLength ? this.#trim(view, name) : view;
    this.remember(view, copy, name === "Buffer" ? this.part(true) : undefined);
    return copy;
  }

  #mark(view: ArrayBufferView): unknown {
    if (this.knownView(view)) return view;
    const isPart = !isBound(view.buffer) && view.byteLength < view.buffer.byteLength;
    const isBuffer = Buffer.isBuffer(view);
    this.remember(view, view, isBuffer || isPart ? this.part(isBuffer) : undefined);
    return view;
  }

  #trim({ buffer, byteOffset, byteLength }: ArrayBufferView, name: string): unknown {
    const bytes = new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength).slice();
    if (byteLength >= MOVE_BYTES) this.moving.push(bytes.buffer);
    return name === "Buffer" ? bytes : new (VIEWS.get(name)!)(bytes.buffer);
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
  return array.length > SMALL_ENTRIES && array.every(isPrimitive);
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
    else if (isPlainArray(node)) {
      for (const part of node) add(part);
      if (node.length <= SMALL_ENTRIES && !isDense(node)) for (const part of Object.values(node)) add(part);
    } else if (isPlainObject(node)) for (const key in node) add((node as Container)[key]);
    else isAllPlain &&= types.isDate(node) || types.isRegExp(node) || types.isAnyArrayBuffer(node);
  }
  return { areThere, isAllPlain };
}
