import type { RedisHandle } from "../../src/commands/ioredis.js";
import { eventually } from "./gate.js";
import type { RedisServer } from "./redis-server.js";
import { begin, Violation } from "./session-acts.js";
import { type Role, SessionClients } from "./session-clients.js";
import { Messages } from "./session-messages.js";
import { Others } from "./session-others.js";
import {
  after,
  afterPipeline,
  afterTransaction,
  type Context,
  lossesOf,
  type Outcome,
  type PipelineOutcome,
  settled,
  unique,
} from "./session-reference.js";
import { newState, type State, unsubscribed, watchedAs } from "./session-server.js";
import { type Act, type Call, fillIn, type Group, type Kind, KINDS, type Plan } from "./session-steps.js";
import { difference, Journal } from "./session-view.js";

/** Longer than anything but a hang, on any machine. */
const DEADLINE_MS = 15_000;
/** For commands that the client still has to send, such as the subscriptions after a reconnect. */
const SETTLED_MS = 3_000;
/** If the ACL forbids a command for longer, a client may be unable to connect again. */
const FORBIDDEN_MS = 30;

const strays: unknown[] = [];
for (const event of ["unhandledRejection", "uncaughtException"]) process.on(event, (error) => void strays.push(error));

let runs = 0;

/** Runs a plan against the server and the reference at the same time; throws if they, or the replies, disagree. */
export async function runPlan(server: RedisServer, plan: Plan): Promise<void> {
  const name = `s${++runs}`;
  strays.length = 0;
  const others = new Others(server, name);
  await others.prepare();
  const clients = await SessionClients.open(server, plan, name);
  let done = 0;
  try {
    const run = new SessionRun(plan, name, clients, others);
    for (const group of plan.groups) {
      await run.next(group);
      done++;
    }
    await run.end();
  } catch (error) {
    const where = `in group ${done + 1}: ${error instanceof Error ? error.message : String(error)}`;
    throw error instanceof Violation ? new Error(where) : new Error(where, { cause: error });
  } finally {
    await clients.close();
    await others.clear();
  }
}

interface Begun {
  readonly how: Act["how"];
  readonly calls: readonly Call[];
  readonly earlier: readonly Kind[];
  readonly outcome: Promise<Outcome | PipelineOutcome>;
}

class SessionRun {
  readonly #plan: Plan;
  readonly #name: string;
  readonly #clients: SessionClients;
  readonly #others: Others;
  readonly #messages: Messages;
  readonly #journals: Readonly<Record<Role, Journal>>;
  /** The states that the connections may be in. */
  readonly #states = new Map<Role, State[]>();
  #tokens = 0;

  constructor(plan: Plan, name: string, clients: SessionClients, others: Others) {
    this.#plan = plan;
    this.#name = name;
    this.#clients = clients;
    this.#others = others;
    this.#messages = new Messages(others, name, plan.hasPrefix);
    this.#journals = { owned: new Journal(), shared: new Journal(), dedicated: new Journal() };
  }

  async next(group: Group): Promise<void> {
    const role = this.#roleOf(group);
    const { forbid, fault } = group;
    const release = role === "dedicated" ? group.release : undefined;
    const redis = await this.#handle(role);
    if (group.flush) await this.#others.flushScripts();
    if (group.touch !== undefined) await this.#touch(group.touch, group.touch % 3);
    if (forbid) await this.#clients.permit(`-${forbid}`);
    const logIn = group.login && (await this.#clients.login());
    const address = fault?.kind === "kill" ? await this.#clients.addressOf(role) : undefined;
    if (group.revoke) await this.#revoke();
    const isOver = this.#meddle(group);

    if (group.login === "before") logIn!();
    const begun = this.#begin(redis, role, group);
    if (group.login === "after") logIn!();
    const released = release === "at once" ? this.#clients.release() : undefined;
    if (address) await this.#others.kill(address);
    const lift = forbid && setTimeout(() => void this.#clients.permit(`+${forbid}`), FORBIDDEN_MS);
    const outcomes = await this.#settled(begun);
    await Promise.all([released, isOver]);
    clearTimeout(lift);
    if (forbid) await this.#clients.permit(`+${forbid}`);
    this.#clients.proxy.cutNothing();

    this.#conclude(role, group, begun, outcomes);
    if (release) await this.#returned(release);
    await this.#check(fault || group.revoke || this.#plan.isImpatient ? this.#clients.held : [role]);
    if (group.publish !== undefined && role !== "shared") await this.#messages.publish(group.publish, this.#in(role));
  }

  /** An owner may end its client, and then no command runs on it. */
  async end(): Promise<void> {
    if (this.#plan.on === "thread") return;
    const redis = await this.#clients.handle("owned");
    const ended: string = await redis.quit();
    if (ended !== "OK") throw new Violation(`quit answered ${ended}`);
    const names = { run: "", hasPrefix: true, role: "owned" };
    const call = fillIn({ kind: "echo", n: 0, shouts: false }, "too late", names);
    const { is } = (await begin(redis, "single", [call], false)) as Outcome;
    if (is !== "not-sent") throw new Violation(`ECHO after quit came out as ${is}`);
  }

  #roleOf({ on }: Group): Role {
    if (this.#plan.on === "owned") return "owned";
    return on === "shared" ? "shared" : "dedicated";
  }

  #in(role: Role): State[] {
    return this.#states.get(role)!;
  }

  async #handle(role: Role): Promise<RedisHandle> {
    const redis = await this.#clients.handle(role);
    if (role !== "shared") this.#messages.listen(redis);
    if (this.#states.has(role)) return redis;
    this.#states.set(role, [newState(this.#plan.db)]);
    await this.#check([role]);
    return redis;
  }

  /** The events beside the acts; resolves when they are over. */
  #meddle({ fault, publish }: Group): Promise<unknown> {
    const { proxy } = this.#clients;
    const meanwhile = publish === undefined ? undefined : this.#messages.interrupt();
    if (fault?.kind === "fin") proxy.fin();
    if (fault?.kind === "reset") proxy.reset();
    if (fault?.kind === "cut") {
      const [first, ...others] = fault.bytes as [number, ...number[]];
      if (fault.side === "requests") proxy.cutAfterRequestBytes(first, ...others);
      else proxy.cutAfterReplyBytes(first, ...others);
    }
    if (fault?.kind !== "stall") return Promise.resolve(meanwhile);
    proxy.blackhole(true);
    const passing = new Promise((resolve) => setTimeout(resolve, fault.ms)).then(() => proxy.blackhole(false));
    return Promise.all([meanwhile, passing.then(() => this.#others.pause())]);
  }

  async #touch(n: number, db: number): Promise<void> {
    await this.#others.touch(n, db);
    this.#become((state) => [state.watched.includes(watchedAs(n, db)) ? { ...state, isDirty: true } : state]);
  }

  /** Ends the connections that still use an older login, and no others. */
  async #revoke(): Promise<void> {
    await this.#clients.revoke();
    for (const role of this.#states.keys()) {
      const mayBeOld = (state: State): boolean =>
        role === "dedicated" || state.queue !== undefined || state.isMonitoring || this.#plan.protocol === 2;
      this.#become((state) => (mayBeOld(state) ? lossesOf(state) : [state]), [role]);
    }
  }

  #become(next: (state: State) => State[], roles: Iterable<Role> = this.#states.keys()): void {
    for (const role of roles) this.#states.set(role, unique(this.#in(role).flatMap(next)));
  }

  #begin(redis: RedisHandle, role: Role, { acts }: Group): Begun[] {
    const { hasPrefix, isImpatient } = this.#plan;
    const names = { run: this.#name, hasPrefix, role };
    const earlier: Kind[] = [];
    const begun: Begun[] = [];
    for (const { how, commands } of acts) {
      // A multi() inside of a MULTI has the replies of both.
      const isOpen = earlier.includes("multi") || this.#in(role).some(({ queue }) => queue !== undefined);
      if (how === "transaction" && isOpen) continue;
      const calls = commands.map((command) => fillIn(command, `${this.#name}.${++this.#tokens}`, names));
      const [{ kind: first, token }] = calls as [Call];
      if (role === "owned" && how === "single" && KINDS[first] === "ending") continue; // see `end`
      begun.push({ how, calls, earlier: [...earlier], outcome: begin(redis, how, calls, isImpatient) });
      earlier.push(...calls.map(({ kind }) => kind));
      if (role === "shared" && how === "single" && first === "script") this.#journals.shared.unordered(token);
      for (const call of calls) if (call.kind === "pop") this.#others.feed(call.token);
    }
    return begun;
  }

  async #settled(begun: readonly Begun[]): Promise<(Outcome | PipelineOutcome)[]> {
    const pending = new Set(begun);
    const all = Promise.all(begun.map((one) => one.outcome.finally(() => pending.delete(one))));
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      const fail = (): void =>
        reject(new Violation(`${[...pending].map(describe).join(", ")}: not within ${DEADLINE_MS} ms`));
      timer = setTimeout(fail, DEADLINE_MS);
    });
    return Promise.race([all, late]).finally(() => clearTimeout(timer));
  }

  #conclude(role: Role, group: Group, begun: readonly Begun[], outcomes: readonly (Outcome | PipelineOutcome)[]): void {
    const { isImpatient, protocol, hasPrefix } = this.#plan;
    const mayLose = group.fault !== undefined || group.release === "at once" || group.revoke === true || isImpatient;
    const atFirst = this.#in(role);
    const { nestingAborts } = this.#others;
    const rules = { protocol, forbidden: group.forbid, nestingAborts };
    const same = { ...rules, role, hasPrefix, mayLose, mayLinger: isImpatient, atFirst };
    begun.forEach((one, i) => {
      const before = this.#in(role);
      this.#become((state) => conclusion(state, one, outcomes[i]!, { ...same, earlier: one.earlier }), [role]);
      if (this.#in(role).length > 0) return;
      throw new Violation(`${describe(one)} came out as ${show(outcomes[i])}, from ${before.map(show).join(" or ")}`);
    });
    if (group.fault || isImpatient) this.#become(lossesOf);
    this.#become(settled);
  }

  /** The next holder's connection is like new, whatever its state was. What was written stays written. */
  async #returned(release: Group["release"]): Promise<void> {
    if (release === "settled") await this.#clients.release();
    if (release === "to a waiter") await this.#clients.handOver();
    this.#become(({ journal, maybe }) => [{ ...newState(this.#plan.db), journal, maybe }], ["dedicated"]);
    await this.#handle("dedicated");
    // If the last holder's WATCH were still there, this EXEC would fail.
    for (const n of [0, 1]) for (const db of [0, 1, 2]) await this.#touch(n, db);
  }

  async #check(roles: readonly Role[]): Promise<void> {
    for (const role of roles) await this.#checkOne(role);
    await new Promise((resolve) => setImmediate(resolve)); // rejections are reported after the microtasks
    const [stray] = strays.splice(0);
    if (stray !== undefined) throw new Violation(`unheard: ${show(stray)}`);
  }

  /** Compares the server's view of the connection with each of the states that it may be in. */
  async #checkOne(role: Role): Promise<void> {
    const { protocol, hasPrefix } = this.#plan;
    const prefix = role === "shared" ? undefined : hasPrefix ? `${this.#name}:` : "";
    const journal = this.#journals[role];
    let problems: string[] = [];
    const look = async (): Promise<boolean> => {
      const view = await this.#others.look(role, await this.#clients.addressOf(role));
      journal.read(view.journal);
      const expected = { users: this.#clients.usersOf(role), protocol, prefix };
      const problemOf = (state: State): string | undefined =>
        difference(state, view, expected) ?? journal.difference(state);
      const states = this.#messages.hasComplaint ? this.#in(role).flatMap(unsubscribed) : this.#in(role);
      problems = states.map((state) => `${problemOf(state)} of ${show(state)}`);
      const left = states.filter((state) => !problemOf(state));
      if (left.length === 0) return false;
      journal.agreed(left);
      this.#states.set(role, unique(left.map((state) => ({ ...state, journal: [], maybe: [] }))));
      this.#messages.hasComplaint = false;
      return true;
    };
    await eventually(look, SETTLED_MS, "the server agrees").catch((error: unknown) => {
      const why = problems.join("; or ") || String(error);
      throw new Violation(`the ${role} connection is not what it should be: ${why}`);
    });
  }
}

function conclusion(
  state: State,
  { how, calls }: Begun,
  outcome: Outcome | PipelineOutcome,
  context: Context,
): State[] {
  if (how === "pipeline") return afterPipeline(state, calls, outcome as PipelineOutcome, context);
  if (how === "single") return after(state, calls[0]!, outcome as Outcome, context);
  return afterTransaction(state, calls, outcome as Outcome, context);
}

function describe({ how, calls }: Begun): string {
  return `${how} (${calls.map(({ name, args }) => [name, ...args].join(" ")).join(", ")})`;
}

function show(value: unknown): string {
  return value instanceof Error ? String(value.stack) : JSON.stringify(value, readable);
}

/** Without empty fields. */
function readable(name: string, part: unknown): unknown {
  if (part instanceof Error) return `${part.name}: ${part.message}`;
  const isEmpty = part === false || (Array.isArray(part) && part.length === 0 && name !== "queue");
  return isEmpty && name !== "value" ? undefined : part;
}
