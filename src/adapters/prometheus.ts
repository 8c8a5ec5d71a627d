import { Counter, Gauge, Histogram, register as globalRegistry, type Registry } from "prom-client";
import { taskChannel } from "../common/channels.js";
import { listen } from "./listen.js";
import { type Measure, MEASURES, type Observed, type Sample } from "./measures.js";

export interface RegisterOptions {
  /** Default: prom-client's global one. */
  readonly registry?: Registry;
  /** Before each metric's name. Default "". */
  readonly prefix?: string;
  /**
   * Bounds in seconds: with them, each task's duration and wait go into histograms by the task's name, from a
   * subscription to `redthread:task`. Default: none.
   */
  readonly taskBuckets?: readonly number[];
}

/**
 * Registers redthread's metrics; each scrape reads `manager.stats()`, which asks no thread. The function it gives takes
 * them out again.
 */
export function register(
  manager: Observed,
  { registry = globalRegistry, prefix = "", taskBuckets }: RegisterOptions = {},
): () => void {
  const stats = oncePerTurn(() => manager.stats());
  const registered = MEASURES.map((measure) => {
    const { kind, help, attributes: labels = [], read } = measure;
    const name = prefix + promName(measure);
    const Metric = kind === "counter" ? Counter : Gauge;
    const metric = new Metric({
      name,
      help,
      labelNames: labels.map(labelName),
      registers: [registry],
      collect(this: Counter | Gauge) {
        this.reset();
        const samples = read(stats());
        if (samples.length === 0) this.remove(); // reset() left a zero where there are no labels
        for (const [value, attributes = {}] of samples) this.inc(labelsOf(attributes), value);
      },
    });
    return { name, metric };
  });
  const histograms = taskBuckets ? timeTasks(manager, registry, prefix, [...taskBuckets]) : undefined;
  return () => {
    histograms?.();
    for (const { name, metric } of registered) {
      // Another's of that name may have come after a first call of this.
      if (registry.getSingleMetric(name) === metric) registry.removeSingleMetric(name);
    }
  };
}

function timeTasks(manager: Observed, registry: Registry, prefix: string, buckets: number[]): () => void {
  const common = { buckets, registers: [registry] };
  const duration = new Histogram({
    ...common,
    name: `${prefix}redthread_task_duration_seconds`,
    help: "From run() to the outcome, by the task's name; error is the code of one that was not done",
    labelNames: ["task", "error"],
  });
  const wait = new Histogram({
    ...common,
    name: `${prefix}redthread_task_wait_seconds`,
    help: "From run() until the task was sent to a thread",
    labelNames: ["task"],
  });
  const stop = listen(taskChannel, {
    asyncEnd({ manager: id, task, durationMs = 0, waitMs, code = "" }) {
      if (id !== manager.id) return;
      duration.observe({ task, error: code }, durationMs / 1_000);
      if (waitMs !== undefined) wait.observe({ task }, waitMs / 1_000);
    },
  });
  return () => {
    stop();
    registry.removeSingleMetric(`${prefix}redthread_task_duration_seconds`);
    registry.removeSingleMetric(`${prefix}redthread_task_wait_seconds`);
  };
}

/** As OpenTelemetry's exporters for Prometheus name it. */
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

/** All metrics of a scrape collect in one turn, and tell of the same moment. */
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
