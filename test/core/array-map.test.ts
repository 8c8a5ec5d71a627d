import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { ArrayMap } from "../../src/core/array-map.js";

test("after any additions and deletions an ArrayMap holds the same entries as a Map", () => {
  const step = fc.record({ key: fc.integer({ min: 0, max: 9 }), value: fc.string() });
  fc.assert(
    fc.property(fc.array(step), (steps) => {
      const [map, array] = [new Map<number, string>(), new ArrayMap<string>()];
      for (const { key, value } of steps) {
        if (map.delete(key)) array.delete(key);
        else {
          map.set(key, value);
          array.add(key, value);
        }
        assert.equal(array.size, map.size);
        for (let i = 0; i < 10; i++) assert.equal(array.get(i), map.get(i));
        assert.deepEqual([...array.values()].toSorted(), [...map.values()].toSorted());
      }
    }),
  );
});
