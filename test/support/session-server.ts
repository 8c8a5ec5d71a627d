import { DATABASES, KINDS, type Call, type Kind } from "./session-steps.js";

/**
 * The state of a connection, as its caller can conclude it from commands and answers. Immutable: after some outcomes
 * several states are possible.
 */
export interface State {
  readonly db: number;
  /** Queued since MULTI. */
  readonly queue: readonly Call[] | undefined;
  /** A command could not be queued: EXEC is going to fail. */
  readonly isAborted: boolean;
  /** Each with its database. */
  readonly watched: readonly string[];
  /** One of the watched keys was written since. */
  readonly isDirty: boolean;
  /** A WATCH or MULTI was lost with its connection, and the EXEC, DISCARD or UNWATCH has not come yet. */
  readonly isBroken: boolean;
  readonly subscribed: Readonly<Record<Channels, readonly string[]>>;
  readonly isMonitoring: boolean;
  /** If the connection was lost in this turn: the commands that may still be queued. */
  readonly gone: readonly Call[] | "outside" | undefined;
  /** Tokens that were written, each with its database, in their order. */
  readonly journal: readonly string[];
  /** Tokens that may have been written, too: all of a group, or none. */
  readonly maybe: readonly (readonly string[])[];
}

export type Channels = "subscribe" | "psubscribe" | "ssubscribe";

/** The server's answer to one command. */
export type Answer =
  | { readonly is: "reply"; readonly value: unknown }
  | { readonly is: "error"; readonly error: Error };

export interface Rules {
  readonly protocol: 2 | 3;
  /** The ACL forbids it, or did so a moment ago. */
  readonly forbidden: Kind | undefined;
  /** A MULTI or WATCH inside of a MULTI aborts it, as on Valkey 9; on Redis it only fails. */
  readonly nestingAborts: boolean;
}

export function newState(db: number): State {
  return {
    db,
    queue: undefined,
    isAborted: false,
    watched: [],
    isDirty: false,
    isBroken: false,
    subscribed: { subscribe: [], psubscribe: [], ssubscribe: [] },
    isMonitoring: false,
    gone: undefined,
    journal: [],
    maybe: [],
  };
}

/** These commands run at once even inside of a MULTI. */
const NEVER_QUEUED: ReadonlySet<Kind> = new Set(["multi", "exec", "discard", "watch"]);

/** By Redis' documentation: the state after this answer; undefined if this cannot be the answer. */
export function served(state: State, call: Call, answer: Answer, rules: Rules): State | undefined {
  const { kind } = call;
  const error = answer.is === "error" ? answer.error.message : undefined;
  if (error?.startsWith("NOPERM")) return kind === rules.forbidden ? rejected(state) : undefined;
  const isTurnedAway = isDeaf(state, kind, rules) || rules.forbidden === "exec";
  // It ends the WATCH even without a MULTI.
  if (kind === "exec" && error?.startsWith("EXECABORT"))
    return isTurnedAway || (state.queue && state.isAborted) ? ended(state) : undefined;
  if (isDeaf(state, kind, rules) && !(kind === "bad" && error?.startsWith("ERR")))
    return error?.includes("Can't execute") ? rejected(state) : undefined;
  if (state.queue === undefined || NEVER_QUEUED.has(kind)) return run(state, call, answer, rules);
  if (kind === "bad") return error?.startsWith("ERR") ? rejected(state) : undefined;
  return answer.is === "reply" && answer.value === "QUEUED" ? { ...state, queue: [...state.queue, call] } : undefined;
}

/** A RESP2 connection with subscriptions accepts few other commands. */
export function isDeaf(state: State, kind: Kind, { protocol }: Pick<Rules, "protocol">): boolean {
  if (protocol === 3 || KINDS[kind] === "subscription" || kind === "ping" || kind === "quit") return false;
  return Object.values(state.subscribed).some(({ length }) => length > 0);
}

/** The transaction is over, and so is its WATCH. */
export function ended(state: State): State {
  return { ...state, queue: undefined, isAborted: false, watched: [], isDirty: false };
}

/** The command is not even queued. */
function rejected(state: State): State {
  return state.queue ? { ...state, isAborted: true } : state;
}

function run(state: State, call: Call, answer: Answer, rules: Rules): State | undefined {
  const { kind, token, args } = call;
  const value = answer.is === "reply" ? answer.value : undefined;
  const fails = (text: string, next = state): State | undefined =>
    answer.is === "error" && answer.error.message.includes(text) ? next : undefined;
  const nests = (text: string): State | undefined =>
    rules.nestingAborts ? fails("not allowed inside a transaction", rejected(state)) : fails(text);
  const replies = (isRight: boolean, next = state): State | undefined =>
    answer.is === "reply" && isRight ? next : undefined;
  const isOpen = state.queue !== undefined;
  switch (kind) {
    case "echo":
      return replies(value === token);
    case "ping": // a pair, if a RESP2 connection has subscriptions
      return replies(value === token || (Array.isArray(value) && value[1] === token));
    case "read":
      return replies(value === `db ${state.db}`);
    case "push":
      return replies(typeof value === "number", written(state, token));
    case "script":
      return replies(value === token, written(state, token));
    case "fail":
      return fails("WRONGTYPE");
    case "bad":
      return fails("ERR");
    case "absent":
      return replies(value === null);
    case "pop":
      return replies(Array.isArray(value) && String(value[0]).endsWith(String(args[0])) && value[1] === token);
    case "select": {
      const db = Number(args[0]);
      return db === DATABASES.at(-1) ? fails("out of range") : replies(value === "OK", { ...state, db });
    }
    case "watch":
      return isOpen ? nests("WATCH inside MULTI") : replies(value === "OK", watching(state, call));
    case "unwatch":
      return replies(value === "OK", { ...state, watched: [], isDirty: false });
    case "multi":
      return isOpen ? nests("nested") : replies(value === "OK", { ...state, queue: [] });
    case "discard":
      return isOpen ? replies(value === "OK", ended(state)) : fails("without MULTI");
    case "exec":
      if (!isOpen) return fails("without MULTI");
      if (state.isAborted || state.isDirty) return replies(value === null && !state.isAborted, ended(state));
      return Array.isArray(value) ? executed(state, value, rules) : undefined;
    case "monitor":
      return replies(true, { ...state, isMonitoring: true });
    default: {
      if (KINDS[kind] !== "subscription") return undefined;
      const next = subscribed(state, kind, args.map(String));
      return replies(Number(value) === subscriptions(next, kind), next);
    }
  }
}

/** Each queued command has its answer at its place. */
export function executed(state: State, values: readonly unknown[], rules: Rules): State | undefined {
  const queue = state.queue ?? [];
  let next: State | undefined = ended(state);
  for (const [i, call] of queue.entries()) {
    const answer = answerOf(values[i]);
    // Nothing blocks inside of a transaction, and EXEC checks the permissions again.
    const isSkipped =
      answer.is === "reply"
        ? call.kind === "pop" && answer.value === null
        : answer.error.message.startsWith("NOPERM") && call.kind === rules.forbidden;
    if (next && !isSkipped) next = run(next, call, answer, rules);
  }
  return values.length === queue.length ? next : undefined;
}

/** ioredis' form in a list: bare, or in a pair with its error. */
export function answerOf(value: unknown): Answer {
  const error: unknown = Array.isArray(value) ? value[0] : value;
  if (error instanceof Error) return { is: "error", error };
  const isPair = Array.isArray(value) && value.length === 2 && value[0] === null;
  return { is: "reply", value: isPair ? (value as unknown[])[1] : value };
}

function watching(state: State, { n }: Call): State {
  return { ...state, watched: [...new Set([...state.watched, watchedAs(n, state.db)])] };
}

export function watchedAs(n: number, db: number): string {
  return `${n % 2} in ${db}`;
}

function written(state: State, token: string): State {
  return { ...state, journal: [...state.journal, `${state.db} ${token}`] };
}

/** SUBSCRIBE or UNSUBSCRIBE of either kind; without channels it means all of them. */
export function subscribed(state: State, kind: Kind, channels: readonly string[]): State {
  const sort = sortOf(kind);
  const before = state.subscribed[sort];
  const left = before.filter((channel) => channels.length > 0 && !channels.includes(channel));
  const now = kind === sort ? [...new Set([...before, ...channels])].toSorted() : left;
  return { ...state, subscribed: { ...state.subscribed, [sort]: now } };
}

/** The ACL may have forbidden the SUBSCRIBE of a reconnect, and only that. */
export function unsubscribed(state: State): State[] {
  return [state, { ...state, subscribed: { ...state.subscribed, subscribe: [] } }];
}

export function sortOf(kind: Kind): Channels {
  return kind.replace("unsub", "sub") as Channels;
}

/** The number in the server's answers. */
function subscriptions({ subscribed: { subscribe, psubscribe, ssubscribe } }: State, kind: Kind): number {
  return sortOf(kind) === "ssubscribe" ? ssubscribe.length : subscribe.length + psubscribe.length;
}

/** The same for a command whose answer was lost. What it wrote may be among the writes of others. */
export function ran(state: State, call: Call, rules: Pick<Rules, "nestingAborts">): State {
  const { kind, args, n } = call;
  const isOpen = state.queue !== undefined;
  if (isOpen && kind === "bad") return rejected(state);
  if (isOpen && !NEVER_QUEUED.has(kind)) return { ...state, queue: [...state.queue, call] };
  if (isOpen && (kind === "watch" || kind === "multi")) return rules.nestingAborts ? rejected(state) : state;
  switch (kind) {
    case "push":
    case "script":
      return withMaybe(state, [call]);
    case "select":
      return DATABASES[n % DATABASES.length] === DATABASES.at(-1) ? state : { ...state, db: Number(args[0]) };
    case "watch":
      return watching(state, call);
    case "unwatch":
      return { ...state, watched: [], isDirty: false };
    case "multi":
      return { ...state, queue: [] };
    case "discard":
      return isOpen ? ended(state) : state;
    case "exec": {
      if (!isOpen) return state;
      const queue = state.isAborted || state.isDirty ? [] : state.queue;
      const selects = queue.filter((one) => one.kind === "select");
      const next = selects.reduce((before, select) => ran(before, select, rules), ended(state));
      return withMaybe(next, queue);
    }
    case "monitor":
      return { ...state, isMonitoring: true };
    default:
      return KINDS[kind] === "subscription" ? subscribed(state, kind, args.map(String)) : state;
  }
}

/** All of these may have written their tokens, or none. */
export function withMaybe(state: State, calls: readonly Call[]): State {
  const tokens = calls.filter(({ kind }) => kind === "push" || kind === "script").map(({ token }) => token);
  return tokens.length === 0 ? state : { ...state, maybe: [...state.maybe, tokens] };
}
