import { types } from "node:util";
import * as threads from "node:worker_threads";
import type { Transferable } from "node:worker_threads";
import { isDetached } from "./views.js";

/** Of a transfer list, what may move. */
export function movable(value: unknown, transferList: readonly Transferable[]): readonly Transferable[] {
  if (!transferList.some(types.isArrayBuffer)) return transferList;
  const uses = new BufferUses(value);
  return transferList.filter((one) => {
    if (!types.isArrayBuffer(one)) return true;
    if (isDetached(one)) throw new Error("an ArrayBuffer of the transfer list was moved away before");
    return uses.isCovered(one) && !isUntransferable(one);
  });
}

/** Node 20 does not say, but clones it instead. */
function isUntransferable(buffer: ArrayBuffer): boolean {
  const { isMarkedAsUntransferable } = threads as { isMarkedAsUntransferable?: (object: object) => boolean };
  return isMarkedAsUntransferable?.(buffer) ?? false;
}

/** Which ArrayBuffers a value holds, or which parts of them. */
class BufferUses {
  readonly #whole = new Set<ArrayBufferLike>();
  readonly #views = new Map<ArrayBufferLike, ArrayBufferView[]>();

  constructor(value: unknown) {
    const seen = new Set<unknown>([value]);
    for (const node of seen) {
      if (typeof node !== "object" || node === null) continue;
      if (types.isArrayBuffer(node)) this.#whole.add(node);
      else if (ArrayBuffer.isView(node)) this.#add(node);
      else for (const part of partsOf(node)) seen.add(part);
    }
  }

  /** Whether the value sees all of the buffer, so that nobody else is left with a part that it does not know. */
  isCovered(buffer: ArrayBuffer): boolean {
    if (this.#whole.has(buffer)) return true;
    let end = 0;
    const views = (this.#views.get(buffer) ?? []).toSorted((a, b) => a.byteOffset - b.byteOffset);
    for (const { byteOffset, byteLength } of views) {
      if (byteOffset > end) return false;
      end = Math.max(end, byteOffset + byteLength);
    }
    return views.length > 0 && end === buffer.byteLength;
  }

  #add(view: ArrayBufferView): void {
    const views = this.#views.get(view.buffer);
    if (views) views.push(view);
    else this.#views.set(view.buffer, [view]);
  }
}

/** What a structured clone goes on to. */
function partsOf(node: object): Iterable<unknown> {
  if (types.isMap(node)) return [...node.keys(), ...node.values()];
  if (types.isSet(node)) return node;
  if (types.isNativeError(node)) return [node.cause];
  return Object.values(node);
}
