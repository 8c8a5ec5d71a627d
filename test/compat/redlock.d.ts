/** The part of redlock 5 that the test uses: its own declarations are hidden by the `exports` of its package.json. */
declare module "redlock" {
  interface Lock {
    extend(ms: number): Promise<Lock>;
    release(): Promise<unknown>;
  }

  export default class Redlock {
    constructor(clients: Iterable<object>, settings?: { readonly retryCount?: number });
    acquire(resources: string[], ms: number): Promise<Lock>;
    using<T>(resources: string[], ms: number, routine: (signal: AbortSignal) => Promise<T>): Promise<T>;
  }
}
