import * as fc from "fast-check";
import { type Act, type Command, type Fault, type Group, type Kind, type Plan, printPlan } from "./session-steps.js";

type Weights = Partial<Record<Kind, number>>;

const PLAIN: Weights = { push: 7, echo: 3, read: 2, script: 6, ping: 1, fail: 1, bad: 1 };
const TRANSACTIONS: Weights = { watch: 5, multi: 6, exec: 7, discard: 2, unwatch: 2 };
const SUBSCRIPTIONS: Weights = {
  subscribe: 2,
  psubscribe: 1,
  ssubscribe: 1,
  unsubscribe: 2,
  punsubscribe: 1,
  sunsubscribe: 1,
};
const SINGLE: Weights = {
  ...PLAIN,
  ...TRANSACTIONS,
  ...SUBSCRIPTIONS,
  select: 5,
  absent: 1,
  pop: 2,
  monitor: 1,
  refused: 2,
  quit: 1,
  disconnect: 1,
};
/** A single refused command refuses the whole pipeline, so that most pipelines contain none. */
const PIPELINED: Weights = { ...PLAIN, ...TRANSACTIONS, select: 3, pop: 1, absent: 1 };
const ODD_IN_PIPELINE: Weights = { ...SUBSCRIPTIONS, monitor: 1, refused: 1, quit: 1 };
const QUEUED: Weights = { ...PLAIN, select: 2, absent: 1, pop: 1, unwatch: 1 };
const ODD_IN_TRANSACTION: Weights = { watch: 1, subscribe: 1, unsubscribe: 1, monitor: 1, refused: 1 };
const FORBIDDEN: Weights = {
  select: 3,
  multi: 4,
  exec: 2,
  watch: 2,
  discard: 1,
  unwatch: 1,
  echo: 1,
  subscribe: 1,
};

function kindOf(weights: Weights): fc.Arbitrary<Kind> {
  const entries = Object.entries(weights) as [Kind, number][];
  return fc.oneof(...entries.map(([kind, weight]) => ({ weight, arbitrary: fc.constant(kind) })));
}

function commandOf(weights: Weights): fc.Arbitrary<Command> {
  return fc.record({
    kind: kindOf(weights),
    n: fc.nat(23),
    shouts: fc.oneof({ weight: 4, arbitrary: fc.constant(false) }, { weight: 1, arbitrary: fc.constant(true) }),
  });
}

function listOf(common: Weights, odd: Weights): fc.Arbitrary<Command[]> {
  const mostly = fc.array(commandOf(common), { minLength: 1, maxLength: 5 });
  const withOne = fc.tuple(mostly, commandOf(odd)).map(([some, one]) => [...some, one]);
  return fc.oneof({ weight: 6, arbitrary: mostly }, { weight: 1, arbitrary: withOne });
}

/** MULTI and EXEC as commands of a pipeline, written by hand. */
const framed: fc.Arbitrary<Command[]> = fc
  .tuple(fc.array(commandOf(PLAIN), { maxLength: 2 }), fc.array(commandOf(QUEUED), { minLength: 1, maxLength: 3 }))
  .map(([before, inside]) => [...before, command("multi"), ...inside, command("exec")]);

function command(kind: Kind): Command {
  return { kind, n: 0, shouts: false };
}

const act: fc.Arbitrary<Act> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({ how: fc.constant("single" as const), commands: fc.tuple(commandOf(SINGLE)) }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ how: fc.constant("pipeline" as const), commands: listOf(PIPELINED, ODD_IN_PIPELINE) }),
  },
  { weight: 1, arbitrary: fc.record({ how: fc.constant("pipeline" as const), commands: framed }) },
  {
    weight: 2,
    arbitrary: fc.record({ how: fc.constant("transaction" as const), commands: listOf(QUEUED, ODD_IN_TRANSACTION) }),
  },
);

const bytes = fc.oneof(
  { weight: 2, arbitrary: fc.integer({ min: 1, max: 60 }) },
  { weight: 1, arbitrary: fc.integer({ min: 1, max: 400 }) },
);
const cuts = fc.oneof({ weight: 5, arbitrary: fc.tuple(bytes) }, { weight: 1, arbitrary: fc.tuple(bytes, bytes) });
const fault: fc.Arbitrary<Fault> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant("cut" as const),
      side: fc.constantFrom("requests" as const, "replies" as const),
      bytes: cuts,
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constantFrom("kill" as const, "fin" as const, "reset" as const) }) },
);

/** Once in so many groups; shrinks to never. */
function now<T>(often: number, arbitrary: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> {
  const never = { weight: often - 1, arbitrary: fc.constant(undefined) };
  return fc.oneof({ withCrossShrink: true }, never, { weight: 1, arbitrary });
}

const group: fc.Arbitrary<Group> = fc.record({
  on: fc.constantFrom("shared" as const, "lease" as const, "lease" as const),
  acts: fc.oneof(
    { weight: 3, arbitrary: fc.tuple(act) },
    { weight: 2, arbitrary: fc.array(act, { minLength: 1, maxLength: 4 }) },
  ),
  fault: now(6, fault),
  forbid: now(12, kindOf(FORBIDDEN)),
  touch: now(8, fc.nat(5)),
  flush: now(5, fc.constant(true)),
  login: now(15, fc.constantFrom("before" as const, "after" as const)),
  revoke: now(30, fc.constant(true)),
  release: now(8, fc.constantFrom("settled" as const, "at once" as const, "to a waiter" as const)),
  publish: now(15, fc.nat(2)),
});

/** Impatient clients meet stalls instead of cuts, and the ACL forbids them nothing. */
const stalled: fc.Arbitrary<Group> = fc
  .tuple(group, now(4, fc.integer({ min: 20, max: 150 })))
  .map(([one, ms]) => ({ ...one, forbid: undefined, fault: ms === undefined ? undefined : { kind: "stall", ms } }));

function planOf(isImpatient: boolean): fc.Arbitrary<Plan> {
  return fc.record({
    on: fc.constantFrom("owned" as const, "thread" as const),
    protocol: fc.constantFrom(3 as const, 3 as const, 2 as const),
    db: fc.constantFrom(0, 0, 1),
    hasLogins: fc.boolean(),
    hasPrefix: fc.constantFrom(false, false, true),
    resend: fc.constantFrom("never" as const, "never" as const, "readonly" as const),
    whenDown: fc.constantFrom("wait" as const, "wait" as const, "fail" as const),
    isImpatient: fc.constant(isImpatient),
    groups: isImpatient
      ? fc.array(stalled, { minLength: 1, maxLength: 8, size: "max" })
      : fc.array(group, { minLength: 1, maxLength: 24, size: "max" }),
  });
}

export const anyPlan: fc.Arbitrary<Plan> = fc
  .oneof({ weight: 15, arbitrary: planOf(false) }, { weight: 1, arbitrary: planOf(true) })
  .map((plan) => ({ ...plan, [fc.toStringMethod]: () => `\n${printPlan(plan)}\n` }));
