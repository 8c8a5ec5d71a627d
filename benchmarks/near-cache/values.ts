const BYTES = 4_096;

/** A JSON text of 4 kB, as a service's profile of a user. */
export function jsonText(id: number): string {
  const tags = Array.from({ length: 40 }, (_, i) => ({
    name: `tag-${id}-${i}`,
    weight: (i * 37) % 100,
    isOn: i % 3 === 0,
  }));
  const text = JSON.stringify({ id, name: `item ${id}`, tags, note: "" });
  return JSON.stringify({ id, name: `item ${id}`, tags, note: "x".repeat(Math.max(BYTES - text.length, 0)) });
}
