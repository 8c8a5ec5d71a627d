import { SpanStatusCode, type Attributes } from "@opentelemetry/api";
import type { InMemorySpanExporter } from "@opentelemetry/sdk-trace";

/** A finished span as data that crosses threads. */
export interface PlainSpan {
  readonly name: string;
  readonly traceId: string;
  readonly spanId: string;
  readonly parentId: string | undefined;
  readonly hasFailed: boolean;
  readonly attributes: Attributes;
  /** The ids of the linked spans. */
  readonly links: readonly string[];
}

/** The spans that were exported since the last call, in the order in which they ended. */
export function plainSpans(exporter: InMemorySpanExporter): PlainSpan[] {
  const spans = exporter.getFinishedSpans().map((span) => ({
    name: span.name,
    traceId: span.spanContext().traceId,
    spanId: span.spanContext().spanId,
    parentId: span.parentSpanContext?.spanId,
    hasFailed: span.status.code === SpanStatusCode.ERROR,
    attributes: { ...span.attributes },
    links: span.links.map(({ context }) => context.spanId),
  }));
  exporter.reset();
  return spans;
}
