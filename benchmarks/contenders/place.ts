import { workerData } from "node:worker_threads";

/** Where Redis is, as every contender's thread is told by its `workerData`. */
export interface Place {
  readonly port: number;
}

export function placeOfThread(): Place {
  return workerData as Place;
}
