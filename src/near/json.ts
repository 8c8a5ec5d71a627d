/** Freezes what JSON.parse has made, in depth and in place. Without recursion, because a value may be nested deeply. */
export function deepFreeze(value: unknown): unknown {
  const left = [value];
  while (left.length > 0) {
    const one = left.pop();
    if (typeof one !== "object" || one === null) continue;
    Object.freeze(one);
    for (const part of Object.values(one)) if (typeof part === "object") left.push(part);
  }
  return value;
}
