import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";

/**
 * When a benchmark fails, its server stops. Then most contenders cannot close: they would wait for Redis for ever, and the smoke
 * run, which reads their output, would wait for them. In this time all can close that can.
 */
const CLOSE_MS = 10_000;

/**
 * A process that answers one question at a time. It has the Node flags of this process, and ends soon after it.
 */
export class OwnProcess<Question extends object, Answer> implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #ended: Promise<unknown[]>;

  /** `script` gets `input` by `inputOfParent()`; `flags` are added to the Node flags of this process. */
  constructor(script: URL, input: object, flags: readonly string[] = []) {
    this.#child = fork(fileURLToPath(script), [JSON.stringify(input)], {
      serialization: "advanced",
      execArgv: [...process.execArgv, ...flags],
    });
    this.#ended = once(this.#child, "exit");
  }

  async ask(question: Question): Promise<Answer> {
    const answered = once(this.#child, "message");
    this.#child.send(question);
    const [answer] = (await Promise.race([answered, this.#diedEarly()])) as [Answer];
    return answer;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.connected) this.#child.disconnect();
    await this.#ended;
  }

  async #diedEarly(): Promise<never> {
    const [code, signal] = (await this.#ended) as [number | null, string | null];
    throw new Error(`a process of the benchmark ended with ${code ?? signal} before it had answered`);
  }
}

/** In such a process: its `input`. */
export function inputOfParent(): unknown {
  return JSON.parse(process.argv[2]!);
}

/** In such a process: answers until the parent disconnects. */
export function serveParent(answer: (question: unknown) => Promise<unknown>, close: () => Promise<unknown>): void {
  process.on("message", (question) => void answer(question).then((found) => process.send!(found)));
  process.once("disconnect", () => {
    void close();
    setTimeout(() => process.exit(1), CLOSE_MS).unref();
  });
}
