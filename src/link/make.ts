import { type Container, type Key, put } from "../core/plain.js";
import { ownView, viewOf } from "./views.js";

/**
 * What the receiver has to do with a value, because a structured clone would lose it: a number for the value itself, or for
 * its parts one flat list, which is cheaper to clone than a list of parts. Of each part it has what to do, the number of
 * keys of the path to it, and the keys; one that is the `SAME` as another has that one's number of keys and keys as well.
 */
export type Make = number | readonly unknown[];

export const AS_IT_IS = 0;
/** Read the JSON. */
export const SAID = 1;
/** Make a Buffer of the Uint8Array, with a buffer of its own bytes alone. */
export const BUFFER_OF_BYTES = 2;
/** Give the view a buffer of its own bytes alone. */
export const OWN_BYTES = 3;
/** Make a Buffer of the Uint8Array; its buffer was moved here and is its own, together with other views. */
export const BUFFER_ON_MOVED = 4;
/** Take what another part has become. */
const SAME = 5;
/** And above, by its kind: make a view of the text of its bytes. */
export const VIEW_OF_TEXT = 6;

/** A value as it crosses to another thread. */
export interface Crossing {
  readonly value: unknown;
  readonly make: Make;
}

/** What has arrived, made what it was. Never throws. */
export function restored(value: unknown, make: Make): unknown {
  if (typeof make === "number") return made(value, make);
  const root: Container = { value };
  try {
    restoreParts(root, make);
  } catch {
    // A getter gave something else when the value was posted than when it was looked through. It stays as it was posted.
  }
  return root["value"];
}

function restoreParts(root: Container, make: readonly unknown[]): void {
  for (let at = 0; at < make.length;) {
    const what = make[at] as number;
    const keys = at + 1;
    const [holder, key] = placeOf(root, make, keys);
    at = endOf(make, keys);
    if (what === SAME) {
      const [sameHolder, sameKey] = placeOf(root, make, at);
      at = endOf(make, at);
      put(holder, key, sameHolder[sameKey]);
    } else put(holder, key, made(holder[key], what));
  }
}

/** Collects what is to be made of a value's views while somebody walks through it: which, where, and which are the same. */
export class ViewParts {
  readonly path: Key[] = [];
  #parts: unknown[] | undefined;
  /** With the path to the view if something is to be made of it. */
  #views: Map<object, { readonly copy: unknown; readonly path: readonly Key[] | undefined }> | undefined;

  get make(): Make {
    return this.#parts ?? AS_IT_IS;
  }

  get isUsed(): boolean {
    return this.#views !== undefined || this.path.length > 0;
  }

  /** The same view once more, as what it was the first time. */
  known(view: object): { readonly copy: unknown } | undefined {
    const known = this.#views?.get(view);
    if (known?.path) this.#add(SAME).push(known.path.length, ...known.path);
    return known;
  }

  remember(view: object, copy: unknown, what: number): void {
    if (what !== AS_IT_IS) this.#add(what);
    (this.#views ??= new Map()).set(view, { copy, path: what === AS_IT_IS ? undefined : [...this.path] });
  }

  forget(): void {
    this.path.length = 0;
    this.#parts = undefined;
    this.#views = undefined;
  }

  #add(what: number): unknown[] {
    const parts = (this.#parts ??= []);
    parts.push(what, this.path.length, ...this.path);
    return parts;
  }
}

function made(value: unknown, what: number): unknown {
  switch (what) {
    case AS_IT_IS:
      return value;
    case SAID:
      return JSON.parse(value as string);
    case BUFFER_OF_BYTES:
    case OWN_BYTES:
      return ownView(value as ArrayBufferView, what === BUFFER_OF_BYTES);
    case BUFFER_ON_MOVED: {
      const { buffer, byteOffset, byteLength } = value as Uint8Array<ArrayBuffer>;
      return Buffer.from(buffer, byteOffset, byteLength);
    }
    default:
      return viewOf(what - VIEW_OF_TEXT, value as string);
  }
}

/** Where a path leads to that begins with the number of its keys. */
function placeOf(root: Container, parts: readonly unknown[], at: number): [holder: Container, key: Key] {
  let holder = root;
  let key: Key = "value";
  const end = endOf(parts, at);
  for (let i = at + 1; i < end; i++) {
    holder = holder[key] as Container;
    key = parts[i] as Key;
  }
  return [holder, key];
}

function endOf(parts: readonly unknown[], at: number): number {
  return at + 1 + (parts[at] as number);
}
