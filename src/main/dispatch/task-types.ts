import type { Cached } from "../../core/memo.js";

/** Tasks without known types, as in JavaScript: any name, any input. */
export type AnyTasks = Record<string, (input: any, context: any) => unknown>;

/** The names of a module's tasks: its exported functions, except `setup`, `teardown`, `default` and caches. */
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

/** The input of a task. With up to three overloads: of any of them. */
export type TaskInput<Task> = InputOf<Signatures<Task>[0]>;

/** The result of a task. With up to three overloads: of any of them. */
export type TaskResult<Task> = Awaited<Signatures<Task>[1]>;

type InputOf<Args> = Args extends [infer Input, ...unknown[]]
  ? Input
  : Args extends [(infer Input)?, ...unknown[]]
    ? Input | undefined
    : undefined;

// The arguments and the result of each overload: `infer` alone sees only the last overload.
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

// Where there are fewer overloads, TypeScript infers a function of any arguments and any result.
type Overload<Args, Result> = unknown[] extends Args ? never : [Args, Result];
