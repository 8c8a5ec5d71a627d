import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { VectorFile, VectorFileWriter } from "../../workers/demo/vector-file.js";

/** Random vectors, for a run that only shows that it runs: the words' are a download of 118 MB. */
export class NoiseVectors implements AsyncDisposable {
  /** Whoever uses it closes it. */
  readonly file: VectorFile;
  readonly #folder: string;

  private constructor(file: VectorFile, folder: string) {
    this.file = file;
    this.#folder = folder;
  }

  static async create(words: number, dimensions: number): Promise<NoiseVectors> {
    const folder = await mkdtemp(join(tmpdir(), "redthread-noise-"));
    const path = join(folder, "noise.vectors");
    const writer = await VectorFileWriter.create(path);
    writer.begin(
      Array.from({ length: words }, (_, word) => `w${word}`),
      dimensions,
    );
    for (let word = 0; word < words; word++) writer.vector(word, Float32Array.from({ length: dimensions }, gauss));
    await writer.finish();
    return new NoiseVectors((await VectorFile.open(path))!, folder);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.#folder, { recursive: true, force: true });
  }
}

function gauss(): number {
  return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
}
