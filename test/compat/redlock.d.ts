/** The part of redlock 5 that we use in tests and benchmarks: its own declarations are hidden by the `exports` of its package.json. */
declare module "redlock" {
  interface Lock {
    extend(ms: number): Promise<Lock>;
    release(): Promise<unknown>;
  }

  interface Settings {
    readonly retryCount?: number;
    readonly automaticExtensionThreshold?: number;
  }

  type Routine<T> = (signal: AbortSignal) => Promise<T>;

  export default class Redlock {
    constructor(clients: Iterable<object>, settings?: Settings);
    acquire(resources: string[], ms: number): Promise<Lock>;
    using<T>(resources: string[], ms: number, routine: Routine<T>): Promise<T>;
    using<T>(resources: string[], ms: number, settings: Settings, routine: Routine<T>): Promise<T>;
  }
}
