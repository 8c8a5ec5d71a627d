import assert from "node:assert/strict";
import { test } from "node:test";
import { SyncArea } from "../../src/link/sync-area.js";

test("the number of a request wraps as the memory does, and is answered", () => {
  const caller = new SyncArea(SyncArea.buffer());
  const helper = new SyncArea(caller.buffer);
  const cells = new Int32Array(caller.buffer, 0, 16);
  const first = caller.ask("call", 0, 0);
  const cell = cells.indexOf(first);
  for (const last of [2 ** 31 - 1, -1]) {
    cells[cell] = last;
    const number = caller.ask("call", 0, 0);
    helper.answer(helper.take().number, { isError: false, bytes: 7 });
    assert.deepEqual(caller.waitForAnswer(number, 0), { isError: false, bytes: 7 });
  }
});

test("caller and helper poll before they sleep if messages come at once, but not if both have one processor", (t) => {
  let stepMs = 0;
  let time = 0;
  const clock = t.mock.method(performance, "now", () => (time += stepMs));
  /** How often it looked at the clock meanwhile, as polling does all the time. */
  const looks = (wait: () => unknown): number => {
    stepMs = 0.01;
    clock.mock.resetCalls();
    wait();
    stepMs = 0;
    return clock.mock.callCount();
  };
  const looksWith = (processors: number): { readonly helper: number; readonly caller: number } => {
    const caller = new SyncArea(SyncArea.buffer(), processors);
    const helper = new SyncArea(caller.buffer, processors);
    const first = caller.ask("call", 0, 0);
    helper.take();
    helper.answer(first, { isError: false, bytes: 0 });
    caller.waitForAnswer(first, 1); // at once
    const second = caller.ask("call", 0, 0);
    helper.take(); // so soon after the first
    return { helper: looks(() => helper.listen()), caller: looks(() => caller.waitForAnswer(second, 0)) };
  };
  const many = looksWith(2);
  const one = looksWith(1);
  assert.ok(many.helper > 10 && many.caller > 10, JSON.stringify(many));
  assert.ok(one.helper === 0 && one.caller < 10, JSON.stringify(one));
});
