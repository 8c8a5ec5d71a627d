import type { Cached } from "../../core/memo.js";

/** Tasks of whose types nothing is known, as in JavaScript: any name, any input. */
export type AnyTasks = Record<string, (input: any, context: any) => unknown>;

/** The tasks of a tasks module: its exported functions, without the two that redthread calls itself, and without caches. */
// Extract, because TypeScript then lists the names in its messages instead of the whole module.
export type TaskName<Tasks> = Extract<
  {
    [Name in keyof Tasks]: Tasks[Name] extends Cached<any, any>
      ? never
      : Tasks[Name] extends (...args: never[]) => unknown
        ? Name
        : never;
  }[Exclude<keyof Tasks, "setup" | "teardown" | "default">],
  string
>;

/** What a task may be given; of up to three overloads, what any one may. */
export type TaskInput<Task> = InputOf<Signatures<Task>[0]>;

/** What a task gives; of overloads, what any one gives. */
export type TaskResult<Task> = Awaited<Signatures<Task>[1]>;

type InputOf<Args> = Args extends [infer Input, ...unknown[]]
  ? Input
  : Args extends [(infer Input)?, ...unknown[]]
    ? Input | undefined
    : undefined;

// The arguments and the result of each overload: `infer` alone sees the last one only.
type Signatures<Task> = Task extends {
  (...args: infer A): infer R;
  (...args: infer B): infer S;
  (...args: infer C): infer T;
}
  ? Overload<A, R> | Overload<B, S> | [C, T]
  : Task extends { (...args: infer A): infer R; (...args: infer B): infer S }
    ? Overload<A, R> | [B, S]
    : Task extends (...args: infer A) => infer R
      ? [A, R]
      : never;

// Where there are fewer, TypeScript infers what takes and gives anything.
type Overload<Args, Result> = unknown[] extends Args ? never : [Args, Result];
