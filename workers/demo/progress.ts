export interface Output {
  write(text: string): unknown;
  readonly isTTY?: boolean | undefined;
  readonly columns?: number | undefined;
}

const BAR_CELLS = 24;
const LABEL_CELLS = 34;
const REDRAW_MS = 80;
const REPORT_MS = 2_000;

/** Prints lines, and bars that redraw themselves on a terminal; elsewhere a bar prints a line now and then. */
export class Progress {
  readonly #out: Output;
  readonly #now: () => number;

  constructor(out: Output, now: () => number = () => performance.now()) {
    this.#out = out;
    this.#now = now;
  }

  line(text = ""): void {
    this.#out.write(`${text}\n`);
  }

  /** Shows the progress of `fn`; `total` undefined: the amount of work is not known. */
  async bar<T>(label: string, total: number | undefined, fn: (bar: Bar) => Promise<T>): Promise<T> {
    const bar = new Bar(this.#out, this.#now, label, total);
    // Work that reports nothing still shows that time passes.
    const timer = setInterval(() => bar.draw(), 500);
    try {
      const result = await fn(bar);
      bar.end("");
      return result;
    } catch (error) {
      bar.end(" (stopped)");
      throw error;
    } finally {
      clearInterval(timer);
    }
  }
}

export class Bar {
  readonly #out: Output;
  readonly #now: () => number;
  readonly #label: string;
  readonly #total: number | undefined;
  readonly #startedAt: number;
  #drawnAt: number;
  #done = 0;

  constructor(out: Output, now: () => number, label: string, total: number | undefined) {
    this.#out = out;
    this.#now = now;
    this.#label = label.padEnd(LABEL_CELLS);
    this.#total = total;
    this.#startedAt = now();
    this.#drawnAt = -Infinity;
    if (!out.isTTY) this.#drawnAt = this.#startedAt;
    this.draw();
  }

  add(done: number): void {
    this.#done += done;
    this.draw();
  }

  draw(): void {
    const now = this.#now();
    if (now - this.#drawnAt < (this.#out.isTTY ? REDRAW_MS : REPORT_MS)) return;
    this.#drawnAt = now;
    this.#out.write(
      this.#out.isTTY ? `\r${this.#cut(`${this.#picture()} ${this.#elapsed()}`)}\u001B[K` : `${this.#plain()}\n`,
    );
  }

  end(note: string): void {
    const text = `${this.#label} ${this.#elapsed()}${note}`;
    this.#out.write(this.#out.isTTY ? `\r${this.#cut(text)}\u001B[K\n` : `${text}\n`);
  }

  #picture(): string {
    if (this.#total === undefined) return `${this.#label} …`;
    const share = this.#share();
    const full = Math.round(share * BAR_CELLS);
    return `${this.#label} ${"█".repeat(full)}${"░".repeat(BAR_CELLS - full)} ${Math.floor(share * 100)} %`;
  }

  #plain(): string {
    return `${this.#label} … ${this.#total === undefined ? this.#elapsed() : `${Math.floor(this.#share() * 100)} %`}`;
  }

  #share(): number {
    return Math.min(this.#done / (this.#total || 1), 1);
  }

  #elapsed(): string {
    return `${((this.#now() - this.#startedAt) / 1000).toFixed(1)} s`;
  }

  /** A line that wraps cannot be redrawn. */
  #cut(text: string): string {
    return text.slice(0, (this.#out.columns ?? 80) - 1);
  }
}
