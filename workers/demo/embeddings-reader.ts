import type { JsonListener } from "./json-scanner.js";

export interface EmbeddingsSink {
  /** Called once, before the first vector: the words, the most frequent first. */
  begin(words: readonly string[], dimensions: number): void;
  /** `values` is used again for the next vector. */
  vector(index: number, values: Float32Array): void;
}

/**
 * Reads `{ dimensions, words: [...], vectors: { word: [dimensions numbers, and more] } }`. The vectors may come in any
 * order, after the words.
 */
export class EmbeddingsReader implements JsonListener {
  readonly #sink: EmbeddingsSink;
  #depth = 0;
  #section = "";
  #dimensions = 0;
  #words: string[] = [];
  #next = 0;
  #indexes: Map<string, number> | undefined;
  #word = "";
  #values: Float32Array | undefined;
  #count = 0;

  constructor(sink: EmbeddingsSink) {
    this.#sink = sink;
  }

  open(): void {
    this.#depth++;
    this.#count = 0;
    if (this.#depth === 2 && this.#section === "vectors") this.#begin();
  }

  close(): void {
    if (this.#depth === 3 && this.#section === "vectors") this.#vector();
    this.#depth--;
  }

  key(name: string): void {
    if (this.#depth === 1) this.#section = name;
    else if (this.#depth === 2 && this.#section === "vectors") this.#word = name;
  }

  text(value: string): void {
    if (this.#depth === 2 && this.#section === "words") this.#words.push(value);
  }

  number(value: number): void {
    if (this.#depth === 3) {
      // A norm and an index follow the last dimension.
      if (this.#values && this.#count < this.#dimensions) this.#values[this.#count] = value;
      this.#count++;
    } else if (this.#depth === 1 && this.#section === "dimensions") this.#dimensions = value;
  }

  #begin(): void {
    if (this.#words.length === 0 || this.#dimensions < 1) {
      throw new Error("the embeddings must name their dimensions and words before their vectors");
    }
    this.#values = new Float32Array(this.#dimensions);
    this.#sink.begin(this.#words, this.#dimensions);
  }

  #vector(): void {
    const index = this.#indexOf(this.#word);
    if (index === undefined || !this.#values) return; // nobody can ask for a vector without a word
    if (this.#count < this.#dimensions) {
      throw new Error(`the vector of "${this.#word}" has ${this.#count} of ${this.#dimensions} dimensions`);
    }
    this.#sink.vector(index, this.#values);
  }

  #indexOf(word: string): number | undefined {
    if (this.#words[this.#next] === word) return this.#next++;
    // Only if they come in another order, because the map of 341 479 words costs 30 MB.
    this.#indexes ??= new Map(this.#words.map((known, index) => [known, index]));
    const index = this.#indexes.get(word);
    if (index !== undefined) this.#next = index + 1;
    return index;
  }
}
