import { types } from "node:util";
import { Counter, Gauge, Histogram, register as globalRegistry, Registry } from "prom-client";
import { taskChannel, type TaskMessage, type TraceContext } from "../core/channels.js";
import { needs, refuse } from "./refuse.js";
import {
  Bounded,
  knownName,
  listen,
  MANAGER,
  type Measure,
  MEASURES,
  type Observed,
  type Sample,
} from "./telemetry.js";

// Older versions do not collect at a scrape.
needs("prom-client 13", types.isPromise(new Registry().metrics()));

export type { Observed } from "./telemetry.js";

export interface RegisterOptions {
  /** Default: prom-client's global one. Several managers may share it. */
  readonly registry?: Omit<Registry, "contentType" | "setContentType"> | undefined;
  /** Precedes each metric's name. Default "". */
  readonly prefix?: string | undefined;
  /** The label `manager`, different for each manager. Default: `manager.id`, 1 for the first of the process. */
  readonly name?: string | undefined;
  /**
   * Bounds in seconds. With them, histograms by the task's name have each task's duration and wait, from a subscription to
   * `redthread:task`. Default: none.
   */
  readonly taskBuckets?: readonly number[] | undefined;
}

/** A manager that the metrics read. */
interface Source {
  readonly manager: Observed;
  readonly name: string;
  readonly stats: Observed["stats"];
  readonly stop: () => void;
}

/** prom-client's metrics keep the fields of their configuration. */
type Shared<Metric> = Metric & { readonly sources: Set<Source>; readonly enableExemplars?: boolean };

interface Config {
  readonly name: string;
  readonly help: string;
  readonly labelNames: string[];
}

type Share = <Metric>(Kind: new (config: Config) => Metric, config: Config) => Shared<Metric>;

/**
 * Registers redthread's metrics. Each scrape reads `manager.stats()`, which asks no thread. Returns the function that removes
 * them; a later call for the same manager, registry and prefix replaces them.
 * @throws REDTHREAD_CONFIG_INVALID for a name that another manager of the registry has, and prom-client's own error for a
 *   metric that is not redthread's; nothing is registered then
 */
export function register(
  manager: Observed,
  { registry = globalRegistry, prefix = "", name = String(manager.id), taskBuckets }: RegisterOptions = {},
): () => void {
  const stops: (() => void)[] = [];
  const stop = (): void => {
    for (const one of stops) one();
  };
  const source: Source = { manager, name, stats: oncePerTurn(() => manager.stats()), stop };
  const former = new Set<Source>();
  /** One metric for all managers of the registry: the first one creates it, and the last one removes it. */
  const share: Share = <Metric>(Kind: new (config: Config) => Metric, config: Config): Shared<Metric> => {
    const full = { ...config, name: prefix + config.name, registers: [registry], sources: new Set() };
    const found = registry.getSingleMetric(full.name) as unknown as Shared<Metric> | undefined;
    const metric = found?.sources ? found : (new Kind(full) as Shared<Metric>);
    for (const other of metric.sources) {
      if (other.manager === manager) former.add(other);
      else if (other.name === name) {
        refuse([`name: another manager of this registry is called ${JSON.stringify(name)}`]);
      }
    }
    metric.sources.add(source);
    stops.push(() => {
      metric.sources.delete(source);
      if (metric.sources.size > 0) return;
      // After a first call, another library may have registered a metric with this name.
      if (registry.getSingleMetric(full.name) === (metric as unknown)) registry.removeSingleMetric(full.name);
    });
    return metric;
  };
  try {
    for (const measure of MEASURES)
      share<Counter | Gauge>(measure.kind === "counter" ? Counter : Gauge, configOf(measure));
    if (taskBuckets) stops.push(observeTasks(source, registry, taskBuckets, share));
  } catch (error) {
    stop();
    throw error;
  }
  for (const one of former) one.stop();
  return stop;
}

/** Histograms of each task of the manager. Returns the function that stops them. */
function observeTasks(
  { manager, name }: Source,
  { contentType }: Partial<Registry>,
  buckets: readonly number[],
  share: Share,
): () => void {
  const enableExemplars = contentType?.startsWith("application/openmetrics-text");
  const histogram = (what: string, help: string, ...labels: string[]): Shared<Histogram> => {
    const config = {
      name: `redthread_task_${what}_seconds`,
      help,
      labelNames: ["manager", "task", ...labels],
      buckets: [...buckets],
      enableExemplars,
    };
    return share<Histogram>(Histogram, config);
  };
  const outcome = "From run() to the outcome, by the task's name; error is the code of one that was not done";
  const duration = histogram("duration", outcome, "error");
  const wait = histogram("wait", "From run() until the task was sent to a thread");
  const names = new Bounded();
  const codes = new Bounded();
  return listen(taskChannel, {
    asyncEnd(message: TaskMessage) {
      const { manager: id, durationMs = 0, waitMs, code = "", trace } = message;
      if (id !== manager.id) return;
      const labels = { manager: name, task: knownName(names, message) };
      observe(duration, { ...labels, error: code && codes.of(code) }, durationMs, trace);
      if (waitMs !== undefined) observe(wait, labels, waitMs, trace);
    },
  });
}

function configOf(measure: Measure): Config {
  const { kind, help, attributes, read } = measure;
  const config = {
    name: promName(measure),
    help,
    labelNames: [MANAGER, ...attributes].map(labelName),
    aggregator: kind === "counter" ? "sum" : kind,
    collect(this: Shared<Counter | Gauge>) {
      this.reset();
      for (const { name, stats } of this.sources) {
        for (const [value, others] of read(stats())) this.inc(labelsOf({ [MANAGER]: name, ...others }), value);
      }
    },
  };
  return config;
}

function observe(metric: Shared<Histogram>, labels: Record<string, string>, ms: number, trace?: TraceContext): void {
  const value = ms / 1_000;
  if (!metric.enableExemplars) return metric.observe(labels, value);
  const [, traceId = "", spanId = "", flags = ""] = trace?.traceparent.split("-") ?? [];
  // A trace that is not sampled cannot be found.
  const exemplarLabels = Number.parseInt(flags, 16) & 1 ? { trace_id: traceId, span_id: spanId } : {};
  metric.observe({ labels, value, exemplarLabels });
}

/** The name that OpenTelemetry's exporters for Prometheus give it. */
function promName({ name, unit, kind }: Measure): string {
  const suffix = { By: "_bytes", "1": "_ratio" }[unit] ?? "";
  return name.replaceAll(".", "_") + suffix + (kind === "counter" ? "_total" : "");
}

function labelName(attribute: string): string {
  return attribute.replace(/^(redthread|db\.client\.connection)\./, "").replaceAll(".", "_");
}

function labelsOf(attributes: NonNullable<Sample[1]>): Record<string, string | number> {
  return Object.fromEntries(Object.entries(attributes).map(([name, value]) => [labelName(name), value]));
}

/** All metrics of a scrape collect in one turn, so that they show the same moment. */
function oncePerTurn<T>(read: () => T): () => T {
  let current: { readonly value: T } | undefined;
  return () => {
    if (!current) {
      current = { value: read() };
      queueMicrotask(() => (current = undefined));
    }
    return current.value;
  };
}
