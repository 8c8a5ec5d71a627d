import {
  type Container,
  isDense,
  isPlainArray,
  isPlainObject,
  isPrimitive,
  type Key,
  MAX_ENTRIES,
  MAX_NODES,
  put,
} from "../core/plain.js";
import { JsonText } from "./json-text.js";
import { AS_IT_IS, type Crossing, SAID, VIEW_OF_TEXT, ViewParts } from "./make.js";
import { isBound, kindOf, textOf } from "./views.js";

/** Up to this size a text of the bytes is faster than a clone, which makes a buffer on either side; beyond 8 kB it is slower. */
const TEXT_BYTES = 4_096;

interface TextOfView extends Crossing {
  readonly make: number;
}

const REFUSED = Symbol("neither small nor plain");

/**
 * A copy that nothing else refers to, so that it may share a message: a structured clone keeps identity inside of a
 * message, and two tasks would share what their values have in common. Undefined where the value is not small and plain;
 * where a getter throws, it is called again when the value crosses alone. Never throws.
 */
export function copyIfSmall(value: unknown): Crossing | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  try {
    if (ArrayBuffer.isView(value)) return textOfView(value);
    if (isPlainArray(value)) return isFlatArray(value) ? asItIs(value.slice()) : copyNested(value);
    if (!isPlainObject(value) || hasManyEntries(value)) return undefined;
    const copy = isFlat(value as Container) ? { ...value } : undefined;
    return copy && isFlat(copy) ? asItIs(copy) : copyNested(value); // a getter may give something else each time
  } catch {
    return undefined;
  }
}

/** A view whose bytes a text can stand for: one copy, which nobody can change, and no buffer to be made for the way. */
export function textOfView(view: ArrayBufferView): TextOfView | undefined {
  const { byteLength } = view;
  if (byteLength === 0 || byteLength > TEXT_BYTES) return undefined;
  const kind = kindOf(view);
  return kind === undefined || isBound(view.buffer) ? undefined : { value: textOf(view), make: VIEW_OF_TEXT + kind };
}

function asItIs(value: object): Crossing {
  return { value, make: AS_IT_IS };
}

function isFlat(object: Container): boolean {
  for (const key in object) if (!isPrimitive(object[key])) return false;
  return true;
}

/** Before it is copied: to copy a large dictionary in vain takes longer than to clone it. */
function hasManyEntries(object: object): boolean {
  let entries = 0;
  for (const _ in object) if (++entries > MAX_ENTRIES) return true;
  return false;
}

function isFlatArray(array: readonly unknown[]): boolean {
  if (array.length > MAX_ENTRIES) return false;
  for (const part of array) if (!isPrimitive(part)) return false;
  return isDense(array);
}

/** Used again; a getter may ask for another one meanwhile. */
let idleCopier: SmallCopier | undefined;

function copyNested(value: object): Crossing | undefined {
  const text = JsonText.of(value);
  if (text !== undefined) return { value: text, make: SAID };
  const copier = idleCopier ?? new SmallCopier();
  idleCopier = undefined;
  try {
    return copier.copyOf(value);
  } finally {
    copier.forget();
    idleCopier = copier;
  }
}

/**
 * Copies what is small and plain, down to the last byte, or refuses. Copying takes as long as a third of the clone does, so
 * that it makes nothing but the copy: its own arrays are used again, and what it asks most often is written out.
 */
class SmallCopier {
  readonly #views = new ViewParts();
  readonly #originals: unknown[] = [];
  readonly #copies: unknown[] = [];
  #size = 0;

  copyOf(value: object): Crossing | undefined {
    const copy = this.#copy(value);
    return copy === REFUSED ? undefined : { value: copy, make: this.#views.make };
  }

  /** What it has seen would live on with it. */
  forget(): void {
    for (let i = 0; i < this.#size; i++) this.#originals[i] = this.#copies[i] = undefined;
    this.#size = 0;
    if (this.#views.isUsed) this.#views.forget();
  }

  #copy(value: object): unknown {
    for (let i = 0; i < this.#size; i++) if (this.#originals[i] === value) return this.#copies[i];
    if (this.#size >= MAX_NODES) return REFUSED;
    if (isPlainObject(value)) return hasManyEntries(value) ? REFUSED : this.#fill(value, { ...value });
    if (isPlainArray(value)) return this.#array(value);
    return ArrayBuffer.isView(value) ? this.#view(value) : REFUSED;
  }

  #fill(value: object, copy: Container): unknown {
    this.#remember(value, copy);
    for (const key in copy) {
      const part = copy[key];
      if (!(isPrimitive(part) || this.#replace(copy, key, part))) return REFUSED;
    }
    return copy;
  }

  #array(value: unknown[]): unknown {
    if (value.length > MAX_ENTRIES || !isDense(value)) return REFUSED;
    const copy = value.slice();
    this.#remember(value, copy);
    for (let i = 0; i < copy.length; i++) {
      const part = copy[i];
      if (!(isPrimitive(part) || this.#replace(copy as unknown as Container, i, part))) return REFUSED;
    }
    return copy;
  }

  #replace(holder: Container, key: Key, part: unknown): boolean {
    // A key of Object.prototype, if somebody added one, is not the value's.
    if (typeof part !== "object") return !Object.hasOwn(holder, key);
    this.#views.path.push(key);
    const copy = this.#copy(part!);
    if (copy === REFUSED) return false;
    this.#views.path.pop();
    if (Object.hasOwn(holder, key)) put(holder, key, copy);
    return true;
  }

  #remember(value: unknown, copy: unknown): void {
    this.#originals[this.#size] = value;
    this.#copies[this.#size++] = copy;
  }

  #view(view: ArrayBufferView): unknown {
    const known = this.#views.known(view);
    if (known) return known.copy;
    const short = textOfView(view);
    if (!short) return REFUSED;
    this.#views.remember(view, short.value, short.make);
    return short.value;
  }
}
