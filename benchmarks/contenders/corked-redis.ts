import { Redis } from "ioredis";

type Sent = Parameters<Redis["sendCommand"]>;

/** All commands of a loop turn in one write, as a senior engineer would have it after a look at strace. */
export class CorkedRedis extends Redis {
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
