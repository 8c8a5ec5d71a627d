/** In ioredis' style of old. */
export type Callback = (error: Error | null, result?: unknown) => void;

/** Both of ioredis' styles: with a callback the promise's failure has been heard. */
export function settle(promise: Promise<unknown>, callback?: Callback): Promise<unknown> {
  if (callback) {
    promise.then(
      (result) => callback(null, result),
      (error: Error) => callback(error),
    );
  }
  return promise;
}
