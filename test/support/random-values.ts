import * as fc from "fast-check";
import {
  ERRORS,
  LEAVES,
  MOST_NODES,
  type Part,
  PRIMITIVES,
  type Recipe,
  UNCLONEABLE,
  type ViewName,
  VIEWS,
} from "./value-recipes.js";

const primitive: fc.Arbitrary<Part> = fc.nat(PRIMITIVES.length - 1).map((n) => ~n);
const part: fc.Arbitrary<Part> = fc.oneof(
  { weight: 2, arbitrary: primitive },
  { weight: 3, arbitrary: fc.nat(MOST_NODES - 1) },
);
const key = fc.constantFrom("a", "b", "c", "0", "7", "length", "constructor", "__proto__", "message", "code");
const entries = fc.uniqueArray(fc.tuple(key, part), { maxLength: 5, selector: ([name]) => name });
const arrayEntries = fc.oneof(
  { weight: 4, arbitrary: fc.constant([]) },
  fc.uniqueArray(fc.tuple(fc.constantFrom("a", "index", "__proto__"), part), {
    maxLength: 2,
    selector: ([name]) => name,
  }),
);
const viewName = fc.constantFrom(...(["Buffer", "Buffer", ...Object.keys(VIEWS)] as ViewName[]));
const bytes = fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 64 }), fc.integer({ min: 1, max: 5_000 }));
const count = fc.oneof(
  fc.integer({ min: 1, max: 8 }),
  fc.integer({ min: 60, max: 90 }),
  fc.integer({ min: 250, max: 300 }),
);
const namesOf = <T extends object>(table: T): fc.Arbitrary<keyof T> =>
  fc.constantFrom(...(Object.keys(table) as (keyof T)[]));

const recipe: fc.Arbitrary<Recipe> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      kind: fc.constant("object" as const),
      prototype: fc.constantFrom(
        "Object" as const,
        "Object" as const,
        "Object" as const,
        "none" as const,
        "Point" as const,
      ),
      entries,
      looks: fc.constantFrom("ordinary" as const, "ordinary" as const, "frozen" as const, "getters" as const),
    }),
  },
  {
    weight: 8,
    arbitrary: fc.record({
      kind: fc.constant("array" as const),
      parts: fc.array(fc.oneof({ weight: 8, arbitrary: part }, fc.constant(null)), { maxLength: 6 }),
      entries: arrayEntries,
      looks: fc.constantFrom("ordinary" as const, "ordinary" as const, "frozen" as const),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("map" as const),
      entries: fc.array(fc.tuple(part, part), { maxLength: 3 }),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("set" as const), members: fc.array(part, { maxLength: 3 }) }) },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("error" as const),
      name: namesOf(ERRORS),
      message: fc.string({ maxLength: 8 }),
      // Node's versions differ in what they make of an error whose causes form a circle.
      causes: fc.array(fc.string({ maxLength: 8 }), { maxLength: 3 }),
      field: part,
    }),
  },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("leaf" as const), name: namesOf(LEAVES) }) },
  {
    weight: 8,
    arbitrary: fc.record({
      kind: fc.constant("view" as const),
      view: viewName,
      backing: fc.constantFrom(...(["own", "pool", "window", "own", "pool", "window", "shared", "resizable"] as const)),
      bytes,
      offset: fc.nat(20),
      seed: fc.nat(255),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("windows" as const),
      bytes: fc.integer({ min: 128, max: 2_000 }),
      views: fc.array(fc.record({ view: viewName, offset: fc.nat(40), bytes: fc.nat(64) }), { maxLength: 3 }),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constant("buffer" as const), bytes, isShared: fc.boolean() }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("large" as const),
      shape: fc.constantFrom("numbers" as const, "keys" as const, "rows" as const, "chain" as const),
      count,
      part,
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("uncloneable" as const), name: namesOf(UNCLONEABLE) }) },
);

/** Recipes of some values that refer to each other. */
export const heap: fc.Arbitrary<Recipe[]> = fc.array(recipe, { minLength: 1, maxLength: MOST_NODES, size: "max" });
