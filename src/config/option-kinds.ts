import { suggest } from "../core/names.js";

/** Reports a wrong value: what would be right, and where below the option, for instance ".ca". Never the value itself. */
export type Complain = (what: string, at?: string) => void;

/** The values that an option may have. */
export interface Kind {
  /** The value for the Config: a copy, as plain data. Undefined after a complaint. */
  readonly parse: (raw: unknown, complain: Complain) => unknown;
  /** An environment variable as the option's value. Without this function the option cannot be set by a variable. */
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

/** An object of known fields. `refused` gives the reasons why other well-known names are refused. */
export function fields(kinds: Readonly<Record<string, Kind>>, refused: ReadonlyMap<string, string> = new Map()): Kind {
  const known = new Map(Object.entries(kinds));
  return objectOf((name, value, complain) => {
    const kind = known.get(name);
    if (kind) return [name, kind.parse(value, complain)];
    return complain(whyRefused(name, value, refused, [...known.keys()]));
  });
}

/** An object whose names the user chooses. */
export function mapOf(kind: Kind, names: RegExp, must: string, clean = (name: string): string => name): Kind {
  return objectOf((name, value, complain) => {
    if (!names.test(name) || name in Object.prototype) complain(must);
    return [clean(name), kind.parse(value, complain)];
  });
}

function objectOf(parseEntry: (name: string, value: unknown, complain: Complain) => [string, unknown] | void): Kind {
  return {
    parse(raw, complain) {
      if (!isPlainObject(raw)) return complain(`must be an object, got ${typeOf(raw)}`);
      const entries = Object.entries(raw).filter(([, value]) => value !== undefined);
      const parsed = entries.map(([name, value]) =>
        parseEntry(name, value, (what, at = "") => complain(what, `.${name}${at}`)),
      );
      return Object.fromEntries(parsed.filter((entry) => entry !== undefined));
    },
  };
}

/** A map that may also be given as text, name=value,name=value. A wrong name is not shown, because it may be a secret. */
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

/** The host and port of a server, as an object or as the text host:port. */
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

/** A list of at least one item. As text the items are separated by commas. */
export function someOf(kind: Kind): Kind {
  const list = listOf(kind);
  return {
    fromText: (value) => value.split(",").map((part) => part.trim()),
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
      // A Buffer may be a view of a pool with other secrets in it: only its own bytes cross to threads.
      if (raw instanceof Uint8Array) return Uint8Array.from(raw);
      return complain(`must be text, bytes, or an array of these, got ${typeOf(raw)}`);
    },
  };
  const several = listOf(one);
  return { parse: (raw, complain) => (Array.isArray(raw) ? several : one).parse(raw, complain) };
}

/** Off, on, or on with options. Gives false or an object. */
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
  // Another realm has another Object.prototype. A Map or an instance of a class would be read as empty.
  return prototype === null || Object.getPrototypeOf(prototype) === null;
}

export function typeOf(value: unknown): string {
  if (value === null || value === undefined) return String(value);
  if (typeof value === "function") return "a function, which cannot cross to threads (a `setup` export is the way)";
  if (Array.isArray(value)) return "an array";
  if (typeof value === "string") return value === "" ? "nothing" : "text";
  return typeof value === "object" ? `an object${isPlainObject(value) ? "" : " of a class"}` : `a ${typeof value}`;
}

/** A text is never shown, because the wrong variable may contain a password. */
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
