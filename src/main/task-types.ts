type AnyTask = (...args: never[]) => unknown;

/** The tasks of a tasks module: its exported functions, without the two that redthread calls itself. */
export type TaskName<Tasks> = {
  [Name in keyof Tasks]: Tasks[Name] extends AnyTask ? Name : never;
}[Exclude<keyof Tasks, "setup" | "teardown" | "default">] &
  string;

export type TaskInput<Task> = Task extends (...args: infer Args) => unknown
  ? Args extends [infer Input, ...unknown[]]
    ? Input
    : Args extends [(infer Input)?, ...unknown[]]
      ? Input | undefined
      : undefined
  : never;

export type TaskResult<Task> = Task extends (...args: never[]) => infer Result ? Awaited<Result> : never;
