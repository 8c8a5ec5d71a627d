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
  type Observable,
  ROOT_CONTEXT,
  type Span,
  SpanKind,
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
  taskChannel,
  type TaskMessage,
  type TraceContext,
} from "../common/channels.js";
import { errorCode } from "../common/log.js";
import { listen, type Listeners } from "./listen.js";
import { DEDICATED, type Measure, MEASURES, type Observed, POOL_NAME } from "./measures.js";

export interface InstrumentOptions {
  /** Default: the global one. */
  readonly meterProvider?: MeterProvider;
  /** Default: the global one. */
  readonly tracerProvider?: TracerProvider;
}

export interface InstrumentThreadOptions extends InstrumentOptions {
  /**
   * Also a span for each Redis command under a span, and `db.client.operation.duration`, from the channels of ioredis.
   * Not beside an instrumentation of ioredis: there would be two of each. Default false.
   */
  readonly commands?: boolean;
}

const SCOPE = "redthread";
/** Bounds of histograms in seconds, as the semantic conventions have them for durations of database operations. */
const OPERATION_S = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10];
const SECONDS = [...OPERATION_S, 30, 60];

/**
 * On the main thread: metrics read from `manager.stats()`, and a span for each task of `run` and `map`, from the call to
 * the outcome, a child of the span that is active at the call. Its context travels to the thread with the task. The
 * function it gives ends all of it.
 */
export function instrument(
  manager: Observed,
  { meterProvider = metrics.getMeterProvider(), tracerProvider = trace.getTracerProvider() }: InstrumentOptions = {},
): () => void {
  const meter = meterProvider.getMeter(SCOPE);
  return all([
    observeStats(manager, meter),
    listen(taskChannel, taskSpans(manager, tracerProvider.getTracer(SCOPE))),
    listen(taskChannel, taskTimes(manager, meter)),
  ]);
}

/**
 * In a thread, at the top of the tasks module or in its `setup`: a span around each task's function, under that of its
 * `run`, active while the function runs; and the times of connections and leases, into this thread's own meter.
 */
export function instrumentThread({
  meterProvider = metrics.getMeterProvider(),
  tracerProvider = trace.getTracerProvider(),
  commands = false,
}: InstrumentThreadOptions = {}): () => void {
  const meter = meterProvider.getMeter(SCOPE);
  const tracer = tracerProvider.getTracer(SCOPE);
  const stops = [listen(executionChannel, executionSpans(tracer)), ...listenToConnections(meter)];
  if (commands)
    stops.push(listen(tracingChannel<unknown, CommandMessage>("ioredis:command"), commandTimes(tracer, meter)));
  return all(stops);
}

// Main thread

function observeStats(manager: Observed, meter: Meter): () => void {
  const observed = MEASURES.map((measure) => [measure, observable(meter, measure)] as const);
  const instruments = observed.map(([, one]) => one);
  const observe: Parameters<Meter["addBatchObservableCallback"]>[0] = (result) => {
    const stats = manager.stats();
    for (const [{ read }, one] of observed) {
      for (const [value, attributes] of read(stats)) result.observe(one, value, attributes);
    }
  };
  meter.addBatchObservableCallback(observe, instruments);
  return () => meter.removeBatchObservableCallback(observe, instruments);
}

function observable(meter: Meter, { name, kind, unit, help: description }: Measure): Observable {
  if (kind === "counter") return meter.createObservableCounter(name, { unit, description });
  if (kind === "sum") return meter.createObservableUpDownCounter(name, { unit, description });
  return meter.createObservableGauge(name, { unit, description });
}

function taskSpans(manager: Observed, tracer: Tracer): Listeners<TaskMessage> {
  const spans = new WeakMap<TaskMessage, Span>();
  return {
    start(message) {
      if (message.manager !== manager.id) return;
      const span = tracer.startSpan(`run ${message.task}`, { attributes: taskAttributes(message) });
      spans.set(message, span);
      const carried = traceContextOf(span);
      if (carried) message.trace = carried;
    },
    asyncEnd(message) {
      const { threadId, waitMs } = message;
      const span = spans.get(message);
      if (threadId !== undefined) span?.setAttribute("redthread.thread.id", threadId);
      if (waitMs !== undefined) span?.setAttribute("redthread.task.wait", waitMs / 1_000);
      if (span) end(span, message.code);
    },
  };
}

function taskTimes(manager: Observed, meter: Meter): Listeners<TaskMessage> {
  const duration = seconds(meter, "redthread.task.duration", "From run() to the outcome, by the task's name");
  const wait = seconds(meter, "redthread.task.wait", "From run() until the task was sent to a thread");
  return {
    asyncEnd({ manager: id, task, durationMs = 0, waitMs, code }) {
      if (id !== manager.id) return;
      const named = { "redthread.task.name": task };
      duration(durationMs, { ...named, ...errorType(code) });
      if (waitMs !== undefined) wait(waitMs, named);
    },
  };
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
      if (span) end(span, message.code);
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

/** What ioredis tells of a command on `ioredis:command`; its arguments are left alone: keys are among them. */
interface CommandMessage {
  readonly command: string;
  readonly database: number;
  readonly serverAddress: string;
  readonly serverPort?: number;
  readonly error?: unknown;
}

/** Of each new connection, in whose task's context it may be; an old server does not know all of them. */
const HANDSHAKE = new Set(["hello", "auth", "client"]);

interface Running {
  readonly startedAt: number;
  readonly attributes: Attributes;
  readonly span: Span | undefined;
}

function commandTimes(tracer: Tracer, meter: Meter): Listeners<CommandMessage> {
  const record = seconds(meter, "db.client.operation.duration", "Duration of database client operations", OPERATION_S);
  const running = new WeakMap<CommandMessage, Running>();
  return {
    start(message) {
      if (HANDSHAKE.has(message.command)) return;
      const attributes = commandAttributes(message);
      // A heartbeat's PING runs in the context of the task that connected first: that one's span has ended.
      const isWanted = trace.getSpan(context.active())?.isRecording();
      const name = String(attributes["db.operation.name"]);
      const span = isWanted ? tracer.startSpan(name, { kind: SpanKind.CLIENT, attributes }) : undefined;
      running.set(message, { startedAt: performance.now(), attributes, span });
    },
    asyncEnd(message) {
      const one = running.get(message);
      if (!one) return;
      const code = message.error === undefined ? undefined : errorCode(message.error);
      record(performance.now() - one.startedAt, { ...one.attributes, ...errorType(code) });
      if (one.span) end(one.span, code);
    },
  };
}

function commandAttributes({ command, database, serverAddress, serverPort }: CommandMessage): Attributes {
  return {
    "db.system.name": "redis",
    "db.operation.name": command.toUpperCase(),
    "db.namespace": String(database),
    "server.address": serverAddress,
    ...(serverPort === undefined ? {} : { "server.port": serverPort }),
  };
}

// Both

function taskAttributes({ task, taskId }: { readonly task: string; readonly taskId: number }): Attributes {
  return { "redthread.task.name": task, "redthread.task.id": taskId };
}

function seconds(
  meter: Meter,
  name: string,
  description: string,
  explicitBucketBoundaries = SECONDS,
): (durationMs: number, attributes: Attributes) => void {
  const histogram = meter.createHistogram(name, { unit: "s", description, advice: { explicitBucketBoundaries } });
  return (durationMs, attributes) => histogram.record(durationMs / 1_000, attributes);
}

function errorType(code: string | undefined): Attributes {
  return code === undefined ? {} : { "error.type": code };
}

/** An error's message can quote users' values: only its code goes out. */
function end(span: Span, code: string | undefined): void {
  if (code !== undefined) span.setStatus({ code: SpanStatusCode.ERROR }).setAttribute("error.type", code);
  span.end();
}

/** As W3C has it, whatever propagator is set: both ends are ours. */
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
