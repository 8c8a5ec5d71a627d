/** ` (did you mean "x"?)` for the closest of the names that are right, or nothing when none is close. */
export function suggest(wrong: string, right: readonly string[]): string {
  let best: string | undefined;
  let bestDistance = Math.min(3, 1 + Math.floor(wrong.length / 2));
  for (const name of right) {
    // Long input is no typing error, and the distance costs its length squared.
    const distance =
      Math.abs(name.length - wrong.length) > 2 ? Infinity : editDistance(wrong.toLowerCase(), name.toLowerCase());
    if (distance < bestDistance) [best, bestDistance] = [name, distance];
  }
  return best === undefined ? "" : ` (did you mean "${best}"?)`;
}

/** Letters to insert, delete or replace to turn one into the other (Levenshtein). */
function editDistance(from: string, to: string): number {
  let row = Array.from({ length: to.length + 1 }, (_, column) => column);
  for (let i = 1; i <= from.length; i++) {
    const next = [i];
    for (let j = 1; j <= to.length; j++) {
      const replaced = row[j - 1]! + (from[i - 1] === to[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, row[j]! + 1, next[j - 1]! + 1));
    }
    row = next;
  }
  return row[to.length]!;
}

/** What is wrong with the options of a call, but for their values: JavaScript has no types that would say it. */
export function unknownOption(options: unknown, known: object): string | undefined {
  if (typeof options !== "object" || options === null) return "the options must be an object";
  for (const name in options)
    if (!Object.hasOwn(known, name)) return `there is no option "${name}"${suggest(name, Object.keys(known))}`;
  return undefined;
}
