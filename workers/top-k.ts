/** Rows and their scores, best first; of equal scores the lower row comes first. */
export interface Hits {
  readonly rows: Int32Array<ArrayBuffer>;
  readonly scores: Float64Array<ArrayBuffer>;
}

/** Keeps the best k of all offered rows: a heap whose root is the worst of them. */
export class TopK {
  readonly #rows: Int32Array;
  readonly #scores: Float64Array;
  #size = 0;

  constructor(k: number) {
    this.#rows = new Int32Array(k);
    this.#scores = new Float64Array(k);
  }

  offer(row: number, score: number): void {
    if (this.#size < this.#rows.length) this.#rise(this.#size++, row, score);
    else if (this.#size > 0 && this.#isWorse(0, row, score)) this.#sink(row, score);
  }

  /** The kept rows; `rename` can give them other numbers. */
  hits(rename: (row: number) => number = (row) => row): Hits {
    const order = Array.from({ length: this.#size }, (_, at) => at);
    order.sort((a, b) => this.#scores[b]! - this.#scores[a]! || this.#rows[a]! - this.#rows[b]!);
    return {
      rows: Int32Array.from(order, (at) => rename(this.#rows[at]!)),
      scores: Float64Array.from(order, (at) => this.#scores[at]!),
    };
  }

  #rise(from: number, row: number, score: number): void {
    let at = from;
    while (at > 0) {
      const parent = (at - 1) >>> 1;
      if (this.#isWorse(parent, row, score)) break;
      this.#move(parent, at);
      at = parent;
    }
    this.#put(at, row, score);
  }

  #sink(row: number, score: number): void {
    let at = 0;
    for (;;) {
      const child = this.#worseChild(at);
      if (child === undefined || !this.#isWorse(child, row, score)) break;
      this.#move(child, at);
      at = child;
    }
    this.#put(at, row, score);
  }

  #worseChild(at: number): number | undefined {
    const left = 2 * at + 1;
    if (left >= this.#size) return undefined;
    const right = left + 1;
    return right < this.#size && this.#isWorse(right, this.#rows[left]!, this.#scores[left]!) ? right : left;
  }

  #isWorse(at: number, row: number, score: number): boolean {
    return this.#scores[at]! < score || (this.#scores[at] === score && this.#rows[at]! > row);
  }

  #move(from: number, to: number): void {
    this.#put(to, this.#rows[from]!, this.#scores[from]!);
  }

  #put(at: number, row: number, score: number): void {
    this.#rows[at] = row;
    this.#scores[at] = score;
  }
}
