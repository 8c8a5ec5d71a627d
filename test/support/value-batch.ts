import * as fc from "fast-check";
import { types } from "node:util";
import type { ConnectionManager } from "../../src/index.js";
import type * as Tasks from "../fixtures/value-tasks.js";
import { describe, isPlain, scribble, withoutViewNumbers } from "./describe-value.js";
import { eventually } from "./gate.js";
import { heap } from "./random-values.js";
import { makeThrown, THROWN, type Thrown } from "./thrown-values.js";
import { build, printHeap, type Recipe, RESOLVED } from "./value-recipes.js";
import { arrival, arrive, describeThrown } from "./value-reference.js";

/** A root is the number of a node, modulo the size of the heap. */
type Operation =
  | { readonly kind: "seize"; readonly root: number; readonly context: number | null }
  | { readonly kind: "echo" | "cached" | "relayed"; readonly root: number }
  | { readonly kind: "reported"; readonly roots: readonly number[] }
  | { readonly kind: "thrower"; readonly root: number; readonly how: Thrown }
  | { readonly kind: "map"; readonly task: "echo" | "cached"; readonly roots: readonly number[] };

type Caller = ConnectionManager<typeof Tasks>;

/** The expected or the actual messages of an operation, in their order, each as a text. */
type Heard = string[];

/** Longer than anything but a hang, on any machine. */
const DEADLINE_MS = 30_000;
/** The text around the first difference of two descriptions. */
const EXCERPT = 160;

const root = fc.nat(11);
const roots = fc.array(root, { minLength: 1, maxLength: 5 });
const operation: fc.Arbitrary<Operation> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({ kind: fc.constant("seize" as const), root, context: fc.option(root, { freq: 1 }) }),
  },
  { weight: 4, arbitrary: fc.record({ kind: fc.constantFrom("echo" as const, "cached" as const), root }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("relayed" as const), root }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("reported" as const), roots }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("thrower" as const), root, how: fc.constantFrom(...THROWN) }) },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant("map" as const), task: fc.constantFrom("echo", "cached"), roots }),
  },
);

let batches = 0;

/** Operations that all begin in one turn, so that their values share messages wherever they may. */
export class ValueBatch {
  static readonly any: fc.Arbitrary<ValueBatch> = fc
    .tuple(heap, fc.array(operation, { minLength: 1, maxLength: 40, size: "max" }))
    .map(([recipes, operations]) => new ValueBatch(recipes, operations));

  readonly #recipes: readonly Recipe[];
  readonly #operations: readonly Operation[];
  #values: unknown[] = [];
  readonly #arrivals = new Map<number, { once?: string; twice?: string }>();
  #name = "";

  constructor(recipes: readonly Recipe[], operations: readonly Operation[]) {
    this.#recipes = recipes;
    this.#operations = operations;
  }

  /** Values that cross: one for most operations, several for some. */
  get size(): number {
    return this.#operations.reduce((sum, one) => sum + ("roots" in one ? one.roots.length : 1), 0);
  }

  /** Throws if an operation gets something else than the reference says, or nothing. */
  async run(manager: Caller): Promise<void> {
    this.#values = build(this.#recipes);
    this.#arrivals.clear();
    this.#name = `batch ${++batches}`;
    const before = describe(this.#values);
    const expected = this.#operations.map((one) => this.#expect(one));
    const heard = this.#operations.map((): Heard => []);
    const all = Promise.all(this.#operations.map((one, i) => this.#begin(manager, one, heard[i]!)));
    await eventually(() => all.then(() => true), DEADLINE_MS, "every operation of the batch settles");
    // An instance arrives as a plain object: then a view in it that is also elsewhere is in plain reach twice.
    const hasInstances = this.#values.some(isInstance);
    const shown = (of: Heard): Heard => (hasInstances ? of.map(withoutViewNumbers) : of);
    const problems = this.#operations.flatMap((one, i) => {
      return difference(this.#print(one), shown(expected[i]!), shown(heard[i]!));
    });
    problems.push(...difference("the caller's own values", [before], [describe(this.#values)]));
    if (problems.length > 0) throw new Error(`${problems.length} differ:\n${problems.slice(0, 3).join("\n")}`);
  }

  /** The form in which fast-check prints a counterexample. */
  [fc.toStringMethod](): string {
    return `\n${printHeap(this.#recipes)}\n${this.#operations.map((one) => `  ${this.#print(one)}`).join("\n")}\n`;
  }

  #expect(one: Operation): Heard {
    switch (one.kind) {
      case "seize": {
        const input = this.#crossed(one.root);
        const context = one.context === null ? "undefined" : this.#crossed(one.context);
        if (input === undefined) return ["refused: input"];
        return context === undefined ? ["refused: context"] : [input, context];
      }
      case "echo":
        return [this.#echoed(one.root)];
      case "cached":
        return [this.#returned(one.root)];
      case "relayed": {
        const echoed = this.#echoed(one.root);
        return echoed.startsWith("refused") ? [echoed] : [echoed, "undefined"];
      }
      case "reported": {
        const reports = one.roots.map((at) => this.#crossed(at));
        const refused = reports.indexOf(undefined);
        if (refused === -1) return [...(reports as string[]), "undefined"];
        return [...(reports.slice(0, refused) as string[]), "refused: report"];
      }
      case "thrower":
        return [`threw ${describeError(makeThrown(one.how, this.#at(one.root)), arrival)}`];
      default:
        return one.roots.map((at) => (one.task === "echo" ? this.#echoed(at) : this.#returned(at)));
    }
  }

  #echoed(at: number): string {
    return this.#expected(at).twice ?? "refused: input";
  }

  #returned(at: number): string {
    return (this.#at(at) instanceof Promise ? String(RESOLVED) : this.#crossed(at)) ?? "refused: result";
  }

  #crossed(at: number): string | undefined {
    return this.#expected(at).once;
  }

  /** The expected value of one node after it has crossed once, and twice; undefined if it is refused. */
  #expected(at: number): { once?: string; twice?: string } {
    const node = at % this.#values.length;
    let known = this.#arrivals.get(node);
    if (!known) {
      const once = arrival(this.#values[node]);
      known = once ? { once: describe(once.value), twice: describe(arrive(once.value)) } : {};
      this.#arrivals.set(node, known);
    }
    return known;
  }

  /** Never rejects. Each value is changed as soon as it is described, before the others are. */
  async #begin(manager: Caller, one: Operation, heard: Heard): Promise<void> {
    const take = (value: unknown): void => {
      heard.push(describe(value));
      scribble(value);
    };
    const fail = (error: unknown): void => {
      heard.push(describeFailure(error));
      scribble(error);
    };
    switch (one.kind) {
      case "seize": {
        const options = one.context === null ? {} : { context: this.#at(one.context) };
        return manager.run("seize", this.#at(one.root), options).then((seen) => void heard.push(...seen), fail);
      }
      case "echo":
        return manager.run("echo", this.#at(one.root)).then(take, fail);
      case "cached":
        return manager.run("cached", this.#made(one.root)).then(take, fail);
      case "relayed":
        return manager.run("relayed", this.#at(one.root), { onReport: take }).then(take, fail);
      case "reported": {
        const { root: _, ...of } = this.#made(0);
        const input = { ...of, roots: one.roots.map((at) => at % this.#recipes.length) };
        return manager.run("reported", input, { onReport: take }).then(take, fail);
      }
      case "thrower":
        return manager.run("thrower", { ...this.#made(one.root), how: one.how }).then(take, fail);
      case "map": {
        const results =
          one.task === "echo"
            ? manager.map(
                "echo",
                one.roots.map((at) => this.#at(at)),
                { onError: "collect" },
              )
            : manager.map(
                "cached",
                one.roots.map((at) => this.#made(at)),
                { onError: "collect" },
              );
        for await (const result of results) {
          if (result.status === "fulfilled") take(result.value);
          else fail(result.reason);
        }
      }
    }
  }

  #at(at: number): unknown {
    return this.#values[at % this.#values.length];
  }

  #made(at: number): Tasks.Made {
    return { batch: this.#name, recipes: JSON.stringify(this.#recipes), root: at % this.#recipes.length };
  }

  #print(one: Operation): string {
    const { kind, ...rest } = one;
    const nodes = (at: unknown): string =>
      typeof at === "number"
        ? `#${at % this.#recipes.length}`
        : Array.isArray(at)
          ? at.map(nodes).join(" ")
          : String(at);
    return `${kind}(${Object.entries(rest)
      .map(([name, at]) => `${name}: ${nodes(at)}`)
      .join(", ")})`;
  }
}

/** Of a class of the user's. */
function isInstance(value: unknown): boolean {
  if (typeof value !== "object" || value === null || types.isProxy(value) || isPlain(value)) return false;
  return Array.isArray(value) || Object.prototype.toString.call(value) === "[object Object]";
}

function describeFailure(error: unknown): string {
  const { code, path } = error as { code?: unknown; path?: unknown };
  const [origin] = /^(?:input|result|report|context)\b/.exec(String(path)) ?? [];
  if (code === "REDTHREAD_NOT_CLONEABLE" && origin) return `refused: ${origin}`;
  return `threw ${describeError(error)}`;
}

/** Only name and message of a DOMException are promised. */
function describeError(error: unknown, across?: typeof arrival): string {
  const { name, message } = error as Error;
  if (name === "AbortError" && types.isNativeError(error)) return `${name}: ${message}`;
  if (error instanceof DOMException) return `${name}: ${message}`;
  return describeThrown(error, across);
}

function difference(what: string, expected: Heard, heard: Heard): string[] {
  const at = Array.from({ length: Math.max(expected.length, heard.length) }, (_, i) => i).find(
    (i) => expected[i] !== heard[i],
  );
  if (at === undefined) return [];
  const [want = "nothing more", got = "nothing more"] = [expected[at], heard[at]];
  let same = 0;
  while (want[same] === got[same]) same++;
  const from = Math.max(0, same - EXCERPT / 2);
  const excerpt = (text: string): string =>
    `${from > 0 ? "…" : ""}${text.slice(from, same + EXCERPT)}${text.length > same + EXCERPT ? "…" : ""}`;
  return [`${what}, ${at + 1} of ${expected.length}\n  expected ${excerpt(want)}\n  heard    ${excerpt(got)}`];
}
