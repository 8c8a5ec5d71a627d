import { suggest } from "../core/names.js";
import { REFUSED_BY_REDTHREAD } from "./ioredis-options.js";
import { isPlainObject, typeOf, whyRefused } from "./option-kinds.js";
import { isOptionPath, OPTION_PATHS, OPTIONS, variableOf, type OptionPath } from "./option-table.js";

/** Sources of settings, the weakest first. */
export const SOURCES = ["file", ".env", "environment", "option"] as const;
export type Source = (typeof SOURCES)[number];

/** One value that a source gives for one option. */
export interface Setting {
  readonly path: OptionPath;
  readonly raw: unknown;
  readonly source: Source;
  /** Within a source the option itself beats the variable with the common name, which beats a part of the url. */
  readonly form: "part" | "common" | "own";
  /** The source's name in messages. */
  readonly origin: string;
}

/** Collects the values of all sources, and complains about wrong names. Values are checked later, when it is known which one counts. */
export class Settings {
  readonly problems: string[] = [];
  #all: Setting[] = [];

  /** `others` are paths that are no settings, such as tasks. */
  addObject(raw: unknown, source: Source, origin: string, others: readonly string[]): void {
    if (!isPlainObject(raw)) {
      this.problems.push(`options (${origin}): must be an object, got ${typeOf(raw)}`);
      return;
    }
    for (const [key, value] of Object.entries(raw)) {
      if (others.includes(key) || value === undefined) continue;
      if (isOptionPath(key)) this.add({ path: key, raw: value, source, form: "own", origin });
      else if (!GROUPS.includes(key)) this.#unknown(key, value, origin, [...GROUPS, "appName", ...others]);
      else if (isPlainObject(value)) this.#addGroup(key, value, source, origin, others);
      else this.problems.push(`${key} (${origin}): must be an object, got ${typeOf(value)}`);
    }
  }

  /** `others` are REDTHREAD_ variables that are no settings. */
  addVariables(variables: object, source: Source, where: string, others: readonly string[]): void {
    for (const [name, raw] of Object.entries(variables)) {
      const origin = `${name} in ${where}`;
      const path = VARIABLES.get(name);
      const fromText = path && OPTIONS[path].kind.fromText;
      if (path && fromText) {
        const form = name.startsWith("REDTHREAD_") ? "own" : "common";
        const empty = raw === undefined || raw === "";
        if (!empty) this.add({ path, raw: typeof raw === "string" ? fromText(raw) : raw, source, form, origin });
      } else if (path) {
        this.problems.push(`${path} (${origin}): cannot be set by a variable, only as an option or in the configFile`);
      } else if (name.startsWith("REDTHREAD_") && !others.includes(name)) {
        this.problems.push(`${origin}: no such option${suggest(name, [...VARIABLES.keys(), ...others])}`);
      }
    }
  }

  /** An empty text counts as no value, from any source. */
  add(setting: Setting): void {
    if (setting.raw !== "") this.#all.push(setting);
  }

  /** The dropped settings no longer count. */
  drop(dropped: readonly Setting[]): void {
    this.#all = this.#all.filter((setting) => !dropped.includes(setting));
  }

  /** The settings of an option, the strongest first. */
  of(path: OptionPath): Setting[] {
    return this.#all.filter((setting) => setting.path === path).toSorted((a, b) => strength(b) - strength(a));
  }

  complain(setting: Pick<Setting, "path" | "origin">, what: string, at = ""): void {
    this.problems.push(`${setting.path}${at} (${setting.origin}): ${what}`);
  }

  #addGroup(
    group: string,
    options: Record<string, unknown>,
    source: Source,
    origin: string,
    others: readonly string[],
  ): void {
    const siblings = OPTION_PATHS.filter((path) => path.startsWith(`${group}.`)).map((path) => path.split(".")[1]!);
    for (const [name, raw] of Object.entries(options)) {
      const path = `${group}.${name}`;
      if (raw === undefined || others.includes(path)) continue;
      if (isOptionPath(path)) this.add({ path, raw, source, form: "own", origin });
      else this.#unknown(path, raw, origin, siblings, group === "redis" ? REFUSED_BY_REDTHREAD : undefined);
    }
  }

  #unknown(
    path: string,
    raw: unknown,
    origin: string,
    known: readonly string[],
    refused?: ReadonlyMap<string, string>,
  ): void {
    const name = path.split(".").at(-1)!;
    const elsewhere = OPTION_PATHS.find((other) => other !== path && other.endsWith(`.${name}`));
    const why = whyRefused(name, raw, refused ?? new Map(), known);
    const hint = elsewhere && !why.includes("(") ? ` (did you mean "${elsewhere}"?)` : "";
    this.problems.push(`${path} (${origin}): ${why}${hint}`);
  }
}

/** A number to compare settings by: first by source, then by form. */
export function strength(setting: Setting): number {
  return SOURCES.indexOf(setting.source) * 3 + ["part", "common", "own"].indexOf(setting.form);
}

const GROUPS: readonly string[] = [
  ...new Set(OPTION_PATHS.filter((path) => path.includes(".")).map((path) => path.split(".")[0]!)),
];

const VARIABLES: ReadonlyMap<string, OptionPath> = new Map(
  OPTION_PATHS.flatMap((path) => {
    const common = OPTIONS[path].variable;
    const own = [variableOf(path), path] as const;
    return common === undefined ? [own] : [own, [common, path] as const];
  }),
);
