import { Redis } from "ioredis";
import { placeOfThread } from "../contender.js";
import { type Item, work } from "../work.js";

type Sent = Parameters<Redis["sendCommand"]>;

/** Writes all commands of a loop turn at once: a senior engineer adds this after a look at strace. */
class CorkedRedis extends Redis {
  #isCorked = false;

  override sendCommand(...[command, stream]: Sent): unknown {
    const socket = this.stream;
    if (!this.#isCorked && socket) {
      this.#isCorked = true;
      socket.cork();
      process.nextTick(() => {
        this.#isCorked = false;
        socket.uncork();
      });
    }
    return super.sendCommand(command, stream);
  }
}

/** No offline queue, no resending, no ready check: as little as possible around a socket. */
const redis = new CorkedRedis(placeOfThread().port, { autoResendUnfulfilledCommands: false, enableReadyCheck: false });

/** One task that fails fails the whole batch. */
export default async function batch(items: readonly Item[]): Promise<number[]> {
  return Promise.all(items.map((item) => work(redis, item)));
}
