import { digest } from "../work.js";

/** The thread behind a main thread that does all the talking to Redis. */
export default function hash({ value, rounds }: { value: Uint8Array; rounds: number }): Uint8Array {
  return digest(value, rounds);
}
