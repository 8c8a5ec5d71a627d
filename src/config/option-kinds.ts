import { suggest } from "../core/suggest.js";

/** Takes note of a wrong value: what would be right, and where below the option, ".ca" for instance. Never the value. */
export type Complain = (what: string, at?: string) => void;

/** What an option may be. */
export interface Kind {
  /** The value as it goes into the Config: a copy, plain data. Undefined after a complaint. */
  readonly parse: (raw: unknown, complain: Complain) => unknown;
  /** The text of an environment variable as an option's value; without it the option cannot come from there. */
  readonly fromText?: (text: string) => unknown;
}

export function text(pattern = /^/, must = "must be text", clean: (value: string) => string = (value) => value): Kind {
  return {
    fromText: (value) => value,
    parse(raw, complain) {
      if (typeof raw === "string" && pattern.test(raw)) return clean(raw);
      return complain(`${must}, got ${typeOf(raw)}`);
    },
  };
}

export function integer(min: number, max = Number.MAX_SAFE_INTEGER): Kind {
  const range = max === Number.MAX_SAFE_INTEGER ? `of at least ${min}` : `from ${min} to ${max}`;
  return {
    fromText: numberFromText,
    parse(raw, complain) {
      if (typeof raw === "number" && Number.isInteger(raw) && raw >= min && raw <= max) return raw;
      return complain(`must be a whole number ${range}, got ${shown(raw)}`);
    },
  };
}

export function integerOrInfinity(min: number): Kind {
  const finite = integer(min);
  return {
    fromText: (value) => (value.trim() === "Infinity" ? Infinity : numberFromText(value)),
    parse: (raw, complain) => (raw === Infinity ? raw : finite.parse(raw, (what) => complain(`${what} (or Infinity)`))),
  };
}

export function number(min: number, max: number): Kind {
  return {
    fromText: numberFromText,
    parse(raw, complain) {
      if (typeof raw === "number" && raw >= min && raw <= max) return raw;
      return complain(`must be a number from ${min} to ${max}, got ${shown(raw)}`);
    },
  };
}

export function flag(): Kind {
  return {
    fromText: flagFromText,
    parse(raw, complain) {
      if (typeof raw === "boolean") return raw;
      return complain(`must be true or false (in the environment also 1, 0, yes, no), got ${shown(raw)}`);
    },
  };
}

export function oneOf(...choices: readonly (string | number)[]): Kind {
  const texts = choices.filter((choice) => typeof choice === "string");
  return {
    fromText: (value) => value.trim().toLowerCase(),
    parse(raw, complain) {
      if (choices.some((choice) => choice === raw)) return raw;
      const hint = typeof raw === "string" ? suggest(raw, texts) : "";
      return complain(
        `must be ${choices.map((choice) => JSON.stringify(choice)).join(" or ")}, got ${shown(raw)}${hint}`,
      );
    },
  };
}

/** An object of known fields; `refused` says of other well-known names why they are not among them. */
export function fields(kinds: Readonly<Record<string, Kind>>, refused: ReadonlyMap<string, string> = new Map()): Kind {
  const known = new Map(Object.entries(kinds));
  return {
    parse(raw, complain) {
      if (!isPlainObject(raw)) return complain(`must be an object, got ${typeOf(raw)}`);
      const parsed: [string, unknown][] = [];
      for (const [name, value] of Object.entries(raw)) {
        if (value === undefined) continue;
        const kind = known.get(name);
        if (kind) parsed.push([name, kind.parse(value, (what, at = "") => complain(what, `.${name}${at}`))]);
        else complain(whyRefused(name, value, refused, [...known.keys()]), `.${name}`);
      }
      return Object.fromEntries(parsed);
    },
  };
}

/** An object whose names are the user's. */
export function mapOf(kind: Kind, names: RegExp, must: string, clean = (name: string): string => name): Kind {
  return {
    parse(raw, complain) {
      if (!isPlainObject(raw)) return complain(`must be an object, got ${typeOf(raw)}`);
      const parsed: [string, unknown][] = [];
      for (const [name, value] of Object.entries(raw)) {
        if (value === undefined) continue;
        if (!names.test(name) || name in Object.prototype) complain(must, `.${name}`);
        parsed.push([clean(name), kind.parse(value, (what, at = "") => complain(what, `.${name}${at}`))]);
      }
      return Object.fromEntries(parsed);
    },
  };
}

/** Also as text, name=value,name=value. A name that is none is not shown: in the wrong variable it may be a secret. */
export function mapOfText(map: Kind, names: RegExp, must: string): Kind {
  return {
    fromText(value) {
      const pairs = value.split(",").map((pair) => pair.trim().split("="));
      const areNamed = pairs.every(
        ([name = "", one, ...more]) => names.test(name) && one !== undefined && more.length === 0,
      );
      return areNamed ? Object.fromEntries(pairs) : value;
    },
    parse: (raw, complain) => (typeof raw === "string" ? complain(must) : map.parse(raw, complain)),
  };
}

export function listOf(kind: Kind): Kind {
  return {
    parse(raw, complain) {
      if (!Array.isArray(raw)) return complain(`must be an array, got ${typeOf(raw)}`);
      return Array.from(raw, (item: unknown, index) =>
        kind.parse(item, (what, at = "") => complain(what, `[${index}]${at}`)),
      );
    },
  };
}

const ADDRESS = /^(?:\[([^\]]+)\]|([^:[\]]+))(?::(\d{1,5}))?$/;

/** Where a server is: host and port, as an object or as the text host:port. */
export function endpoint(host: Kind, port: number): Kind {
  const parts = fields({ host, port: integer(1, 65_535) });
  return {
    parse(raw, complain) {
      const [isAddress, v6, name, digits] = (typeof raw === "string" && ADDRESS.exec(raw.trim())) || [];
      const given = isAddress ? { host: v6 ?? name, port: digits === undefined ? port : Number(digits) } : raw;
      if (!isPlainObject(given))
        return complain(`must be host:port, or an object of host and port, got ${typeOf(raw)}`);
      if (given["host"] === undefined) complain("is missing", ".host");
      return parts.parse({ ...given, port: given["port"] ?? port }, complain);
    },
  };
}

/** At least one of them; as text separated by commas. */
export function someOf(kind: Kind): Kind {
  const list = listOf(kind);
  return {
    fromText: (value) => value.split(","),
    parse(raw, complain) {
      if (Array.isArray(raw) && raw.length === 0) return complain("must name at least one");
      return list.parse(raw, complain);
    },
  };
}

/** A certificate or key: PEM text or bytes, or several of them. */
export function pem(): Kind {
  const one: Kind = {
    parse(raw, complain) {
      if (typeof raw === "string") return raw;
      // A Buffer may be a window on a pool shared with other secrets: only its own bytes cross.
      if (raw instanceof Uint8Array) return Uint8Array.from(raw);
      return complain(`must be text, bytes, or an array of these, got ${typeOf(raw)}`);
    },
  };
  const several = listOf(one);
  return { parse: (raw, complain) => (Array.isArray(raw) ? several : one).parse(raw, complain) };
}

/** Off, on, or on with these options: false or an object. */
export function flagOr(kind: Kind): Kind {
  return {
    fromText: flagFromText,
    parse(raw, complain) {
      if (typeof raw === "boolean") return raw && {};
      if (isPlainObject(raw)) return kind.parse(raw, complain);
      return complain(`must be true, false or an object, got ${typeOf(raw)}`);
    },
  };
}

export function whyRefused(
  name: string,
  value: unknown,
  refused: ReadonlyMap<string, string>,
  known: readonly string[],
): string {
  const reason = refused.get(name);
  if (reason !== undefined) return `is refused: ${reason}`;
  if (typeof value === "function") return `unknown option, and ${typeOf(value)}`;
  return `unknown option${suggest(name, known)}`;
}

export function isPlainObject(value: unknown): value is Record<string, unknown> {
  if (typeof value !== "object" || value === null) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  // Not `=== Object.prototype`: another realm has another one. A Map or a class instance would be read as empty.
  return prototype === null || Object.getPrototypeOf(prototype) === null;
}

export function typeOf(value: unknown): string {
  if (value === null || value === undefined) return String(value);
  if (typeof value === "function") return "a function, which cannot cross to threads (a `setup` export is the way)";
  if (Array.isArray(value)) return "an array";
  if (typeof value === "string") return value === "" ? "nothing" : "text";
  return typeof value === "object" ? `an object${isPlainObject(value) ? "" : " of a class"}` : `a ${typeof value}`;
}

/** Text is never shown: what stands in the wrong variable may be a password. */
function shown(value: unknown): string {
  return typeof value === "number" || typeof value === "boolean" ? String(value) : typeOf(value);
}

function numberFromText(value: string): unknown {
  return /^[+-]?\d+(\.\d+)?$/.test(value.trim()) ? Number(value) : value;
}

const FLAGS: ReadonlyMap<string, boolean> = new Map([
  ["true", true],
  ["1", true],
  ["yes", true],
  ["false", false],
  ["0", false],
  ["no", false],
]);

function flagFromText(value: string): unknown {
  return FLAGS.get(value.trim().toLowerCase()) ?? value;
}
