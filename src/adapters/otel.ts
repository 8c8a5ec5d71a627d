import { tracingChannel } from "node:diagnostics_channel";
import {
  type Attributes,
  type Context,
  context,
  createTraceState,
  isSpanContextValid,
  type Meter,
  type MeterProvider,
  metrics,
  ROOT_CONTEXT,
  type Span,
  SpanKind,
  type SpanOptions,
  SpanStatusCode,
  trace,
  type Tracer,
  type TracerProvider,
} from "@opentelemetry/api";
import {
  acquireChannel,
  connectionChannel,
  executionChannel,
  type ConnectionMessage,
  type ExecutionMessage,
  leaseChannel,
  lockChannel,
  type LockMessage,
  pipelined,
  taskChannel,
  type TaskMessage,
  type TraceContext,
} from "../core/channels.js";
import { errorCode } from "../core/log.js";
import {
  Bounded,
  DEDICATED,
  knownName,
  listen,
  type Listeners,
  MANAGER,
  MEASURES,
  type Observed,
  POOL_NAME,
} from "./telemetry.js";

export type { Observed } from "./telemetry.js";

export interface InstrumentOptions {
  /** Default: the global one. */
  readonly meterProvider?: MeterProvider | undefined;
  /** Default: the global one. */
  readonly tracerProvider?: TracerProvider | undefined;
}

export interface InstrumentManagerOptions extends InstrumentOptions {
  /** The attribute `redthread.manager`. Default: `manager.id`, 1 for the first of the process. */
  readonly name?: string | undefined;
}

export interface InstrumentThreadOptions extends InstrumentOptions {
  /**
   * Adds a span for each Redis command or pipeline under a span, and `db.client.operation.duration`, from the channels of ioredis.
   * Do not use it beside an instrumentation of ioredis, because each span would be there twice. Default false.
   */
  readonly commands?: boolean | undefined;
}

const SCOPE = "redthread";
/** Bounds of histograms in seconds, from the semantic conventions for durations of database operations. */
const OPERATION_S = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10];
const SECONDS = [...OPERATION_S, 30, 60];

/** So many tasks of a `map` are in the caller's trace. Later ones begin their own, because no backend shows an endless trace. */
const CHILDREN = 1_000;

/**
 * On the main thread: metrics from `manager.stats()`, and a span for each task of `run` and `map`, from the call to the
 * outcome. It is a child of the span that is active at the call; after 1 000 tasks of a `map` it is linked to that span
 * instead. Its context travels to the thread with the task. Returns the function that ends all of it.
 */
export function instrument(
  manager: Observed,
  {
    meterProvider = metrics.getMeterProvider(),
    tracerProvider = trace.getTracerProvider(),
    name = String(manager.id),
  }: InstrumentManagerOptions = {},
): () => void {
  const meter = meterProvider.getMeter(SCOPE);
  const listeners = traceTasks(manager, tracerProvider.getTracer(SCOPE), meter, name);
  return all([observeStats(manager, meter, name), listen(taskChannel, listeners)]);
}

/**
 * In a thread, at the top of the tasks module or in its `setup`: a span around each task's function, which is a child of the
 * span of its `run` and active while the function runs. Also the times of connections, leases and locks, in this thread's meter.
 */
export function instrumentThread({
  meterProvider = metrics.getMeterProvider(),
  tracerProvider = trace.getTracerProvider(),
  commands = false,
}: InstrumentThreadOptions = {}): () => void {
  const meter = meterProvider.getMeter(SCOPE);
  const tracer = tracerProvider.getTracer(SCOPE);
  const stops = [listen(executionChannel, executionSpans(tracer)), ...listenToConnections(meter), lockTimes(meter)];
  if (commands)
    stops.push(listen(tracingChannel<unknown, CommandMessage>("ioredis:command"), commandTimes(tracer, meter)));
  return all(stops);
}

// Main thread

function observeStats(manager: Observed, meter: Meter, name: string): () => void {
  const observed = MEASURES.map(({ name: metric, kind, unit, help: description, read }) => {
    const create = CREATE[kind as keyof typeof CREATE] ?? "createObservableGauge";
    return { read, instrument: meter[create](metric, { unit, description }) };
  });
  const instruments = observed.map((one) => one.instrument);
  const observe: Parameters<Meter["addBatchObservableCallback"]>[0] = (result) => {
    const stats = manager.stats();
    for (const one of observed) {
      for (const [value, attributes] of one.read(stats)) {
        result.observe(one.instrument, value, { ...attributes, [MANAGER]: name });
      }
    }
  };
  meter.addBatchObservableCallback(observe, instruments);
  return () => meter.removeBatchObservableCallback(observe, instruments);
}

const CREATE = { counter: "createObservableCounter", sum: "createObservableUpDownCounter" } as const;

function traceTasks(manager: Observed, tracer: Tracer, meter: Meter, name: string): Listeners<TaskMessage> {
  const duration = seconds(meter, "redthread.task.duration", "From run() to the outcome, by the task's name");
  const wait = seconds(meter, "redthread.task.wait", "From run() until the task was sent to a thread");
  const names = new Bounded();
  const codes = new Bounded();
  const spans = new WeakMap<TaskMessage, Span>();
  return {
    start(message) {
      if (message.manager !== manager.id) return;
      const span = tracer.startSpan(`run ${message.task}`, {
        ...parentOf(message),
        attributes: taskAttributes(message),
      });
      spans.set(message, span);
      const carried = traceContextOf(span);
      if (carried) message.trace = carried;
    },
    asyncEnd(message) {
      const { task, durationMs = 0, threadId, waitMs, code } = message;
      if (message.manager !== manager.id) return;
      const span = spans.get(message);
      const within = span && trace.setSpan(ROOT_CONTEXT, span);
      const known = knownName(names, message);
      const attributes = { [MANAGER]: name, "redthread.task.name": known };
      duration(durationMs, { ...attributes, ...errorType(code && codes.of(code)) }, within);
      if (waitMs !== undefined) wait(waitMs, attributes, within);
      if (!span) return;
      if (known !== task) span.updateName(`run ${known}`);
      if (threadId !== undefined) span.setAttribute("redthread.thread.id", threadId);
      if (waitMs !== undefined) span.setAttribute("redthread.task.wait", waitMs / 1_000);
      end(span, errorType(code));
    },
  };
}

function parentOf({ index = 0 }: TaskMessage): SpanOptions {
  const caller = trace.getSpanContext(context.active());
  return index < CHILDREN || !caller ? {} : { root: true, links: [{ context: caller }] };
}

// Thread

function executionSpans(tracer: Tracer): Listeners<ExecutionMessage> {
  const spans = new WeakMap<ExecutionMessage, Span>();
  return {
    start(message) {
      const parent = message.trace ? contextOf(message.trace) : ROOT_CONTEXT;
      const attributes = { ...taskAttributes(message), "redthread.thread.id": message.threadId };
      const span = tracer.startSpan(message.task, { attributes }, parent);
      spans.set(message, span);
      const active = trace.setSpan(parent, span);
      const { around } = message;
      message.around = (run) => context.with(active, () => (around ? around(run) : run()));
    },
    asyncEnd(message) {
      const span = spans.get(message);
      if (span) end(span, errorType(message.code));
    },
  };
}

function listenToConnections(meter: Meter): (() => void)[] {
  const created = seconds(meter, "db.client.connection.create_time", "The time it took to create a new connection");
  const waited = seconds(
    meter,
    "db.client.connection.wait_time",
    "The time it took to obtain an open connection from the pool",
  );
  const used = seconds(
    meter,
    "db.client.connection.use_time",
    "The time between borrowing a connection and returning it to the pool",
  );
  const onConnection = (message: unknown): void => {
    const { event, role, durationMs = 0 } = message as ConnectionMessage;
    if (event === "connected") created(durationMs, { [POOL_NAME]: `redthread.${role}` });
  };
  connectionChannel.subscribe(onConnection);
  return [
    () => {
      connectionChannel.unsubscribe(onConnection);
    },
    listen(acquireChannel, {
      asyncEnd: ({ durationMs = 0, code }) => {
        if (code === undefined) waited(durationMs, DEDICATED);
      },
    }),
    listen(leaseChannel, { asyncEnd: ({ durationMs = 0 }) => used(durationMs, DEDICATED) }),
  ];
}

function lockTimes(meter: Meter): () => void {
  const waited = seconds(meter, "redthread.lock.wait", "From the request for a lock until it was acquired");
  const held = seconds(meter, "redthread.lock.duration", "From the acquire of a lock until its release or its loss");
  const onLock = (message: unknown): void => {
    const { event, waitMs = 0, heldMs = 0, reason } = message as LockMessage;
    if (event === "acquired") waited(waitMs, {});
    else held(heldMs, reason === undefined ? {} : { "redthread.reason": reason });
  };
  lockChannel.subscribe(onLock);
  return () => {
    lockChannel.unsubscribe(onLock);
  };
}

/** The part of ioredis' message on `ioredis:command` that is used. Its arguments are not, because keys are among them. */
interface CommandMessage {
  readonly command: string;
  readonly database: number;
  readonly serverAddress: string;
  readonly serverPort?: number;
  readonly error?: unknown;
}

/** Commands of a new connection, which may be opened in a task's context. An old server does not know all of them. */
const HANDSHAKE = new Set(["hello", "auth", "client"]);

/** A command, or all commands of a pipeline. */
interface Running {
  readonly startedAt: number;
  readonly name: string;
  readonly attributes: Attributes;
  readonly span: Span | undefined;
  /** Commands without a reply so far. */
  left: number;
  error?: unknown;
}

function commandTimes(tracer: Tracer, meter: Meter): Listeners<CommandMessage> {
  const record = seconds(meter, "db.client.operation.duration", "Duration of database client operations", OPERATION_S);
  const names = new Bounded();
  const codes = new Bounded();
  /** The keys are the messages of commands, and the command lists of pipelines. */
  const running = new WeakMap<object, Running>();
  const begin = (message: CommandMessage, commands: readonly { readonly name: string }[]): Running => {
    const { name, ...size } = operationOf(commands.map((one) => one.name.toUpperCase()));
    const attributes = { ...commandAttributes(message), "db.operation.name": name };
    // Nobody would look for it under a span that has ended.
    const span = trace.getSpan(context.active())?.isRecording()
      ? tracer.startSpan(name, { kind: SpanKind.CLIENT, attributes: { ...attributes, ...size } })
      : undefined;
    return { startedAt: performance.now(), name, attributes, span, left: 0 };
  };
  return {
    start(message) {
      const { commands } = pipelined;
      if (!commands && HANDSHAKE.has(message.command)) return;
      const one = running.get(commands ?? message) ?? begin(message, commands ?? [{ name: message.command }]);
      one.left++;
      running.set(message, one);
      if (commands) running.set(commands, one);
    },
    asyncEnd(message) {
      const one = running.get(message);
      if (!one) return;
      one.error ??= message.error;
      if (--one.left > 0) return;
      const { startedAt, name, attributes, span, error } = one;
      const known = names.of(name, error === undefined);
      const within = span && trace.setSpan(context.active(), span);
      record(
        performance.now() - startedAt,
        { ...attributes, "db.operation.name": known, ...failureOf(error, codes) },
        within,
      );
      if (span) end(span, failureOf(error));
    },
  };
}

/** A pipeline's name by the semantic conventions; a pipeline of one command has the name of the command. */
function operationOf(names: readonly string[]): { readonly name: string; readonly "db.operation.batch.size"?: number } {
  const isTransaction = names[0] === "MULTI" && names.length > 1;
  const batch = isTransaction ? names.slice(1, -1) : names;
  const [first] = batch;
  if (first !== undefined && batch.length === 1) return { name: first };
  const kind = isTransaction ? "MULTI" : "PIPELINE";
  const isUniform = first !== undefined && batch.every((name) => name === first);
  return { name: isUniform ? `${kind} ${first}` : kind, "db.operation.batch.size": batch.length };
}

function commandAttributes({ database, serverAddress, serverPort }: CommandMessage): Attributes {
  return {
    "db.system.name": "redis",
    "db.namespace": String(database),
    "server.address": serverAddress,
    ...(serverPort === undefined ? {} : { "server.port": serverPort }),
  };
}

/** `codes` limits the number of different codes. */
function failureOf(error: unknown, codes?: Bounded): Attributes {
  if (error === undefined) return {};
  const code = codes?.of(errorCode(error)) ?? errorCode(error);
  return { "error.type": code, ...(Object(error).name === "ReplyError" && { "db.response.status_code": code }) };
}

// Both

function taskAttributes({ task, taskId }: { readonly task: string; readonly taskId: string }): Attributes {
  return { "redthread.task.name": task, "redthread.task.id": taskId };
}

function seconds(
  meter: Meter,
  name: string,
  description: string,
  explicitBucketBoundaries = SECONDS,
): (durationMs: number, attributes: Attributes, within?: Context) => void {
  const histogram = meter.createHistogram(name, { unit: "s", description, advice: { explicitBucketBoundaries } });
  // An SDK with exemplars takes them from the span in the context.
  return (durationMs, attributes, within) => histogram.record(durationMs / 1_000, attributes, within);
}

function errorType(code: string | undefined): Attributes {
  return code === undefined ? {} : { "error.type": code };
}

/** Only the error's code is exported, because its message can quote users' values. */
function end(span: Span, failure: Attributes): void {
  if ("error.type" in failure) span.setStatus({ code: SpanStatusCode.ERROR }).setAttributes(failure);
  span.end();
}

/** In W3C's format, whatever propagator is set, because redthread reads it at the other end. */
function traceContextOf(span: Span): TraceContext | undefined {
  const spanContext = span.spanContext();
  if (!isSpanContextValid(spanContext)) return undefined;
  const { traceId, spanId, traceFlags, traceState } = spanContext;
  const traceparent = `00-${traceId}-${spanId}-${traceFlags.toString(16).padStart(2, "0")}`;
  const tracestate = traceState?.serialize();
  return tracestate ? { traceparent, tracestate } : { traceparent };
}

function contextOf({ traceparent, tracestate }: TraceContext): Context {
  const [, traceId, spanId, flags] = traceparent.split("-");
  return trace.setSpanContext(ROOT_CONTEXT, {
    traceId: traceId!,
    spanId: spanId!,
    traceFlags: Number.parseInt(flags!, 16),
    isRemote: true,
    ...(tracestate === undefined ? {} : { traceState: createTraceState(tracestate) }),
  });
}

function all(stops: readonly (() => void)[]): () => void {
  return () => {
    for (const stop of stops) stop();
  };
}
