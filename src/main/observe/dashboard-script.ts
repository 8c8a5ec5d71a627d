/**
 * What runs in the browser: asks for the numbers, one question at a time, and writes what changed. No backtick and no
 * dollar sign before a brace, since it is a template here; text goes in by textContent only. It has no comments, because
 * each page would bring them along:
 * - `write` writes only what differs: a live region repeats itself to a screen reader otherwise.
 * - `born`: a thread has no id before its first word; there can be several such threads.
 * - `reasonsOf`: a manager that is ready may have reasons, too. They do not stop its tasks, but somebody should know.
 * - `compare` tells what happened between two looks, as far as the numbers say.
 * - `show`: there is no keeper before the first lock, and no near cache without `nearCache.prefixes`.
 * - `url` keeps the query of the page's own url, such as an access token.
 * - `look`: an answer that comes after a pause is not shown.
 */
export const SCRIPT = `
"use strict";
const KEPT = 120, LISTED = 50, NBSP = "\\u00a0";
const everyMs = Number(document.body.dataset.intervalMs);
const at = (id) => document.getElementById(id);
const curves = { rate: [], queue: [], busy: [] };
const number = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const whole = (value) => number.format(value);
const percent = (share) => Math.round(share * 100) + NBSP + "%";
let last, timer, failures = 0, isPaused = false, round = 0;

function write(element, text, tone) {
  if (element.textContent !== text) element.textContent = text;
  if (tone !== undefined && element.dataset.tone !== tone) element.dataset.tone = tone;
}

function draw(id, value, top) {
  const values = curves[id];
  values.push(value);
  if (values.length > KEPT) values.shift();
  const most = top || Math.max(1, ...values) * 1.1, step = 120 / (KEPT - 1), from = 120 - (values.length - 1) * step;
  const points = values.map((one, i) => (from + i * step).toFixed(1) + "," + (31 - (Math.min(one, most) / most) * 30).toFixed(1));
  const [area, line] = at(id + "-curve").children;
  line.setAttribute("points", points.join(" "));
  area.setAttribute("d", "M" + from.toFixed(1) + ",32 L" + points.join(" L") + " L120,32 Z");
  return Math.max(...values);
}

function duration(ms) {
  const s = Math.round(ms / 1000);
  if (s < 60) return s + NBSP + "s";
  return s < 3600 ? Math.floor(s / 60) + NBSP + "min " + (s % 60) + NBSP + "s"
    : Math.floor(s / 3600) + NBSP + "h " + Math.floor((s % 3600) / 60) + NBSP + "min";
}

const clock = (ms) => new Date(ms).toLocaleTimeString([], { hour12: false });

function tell(atMs, text) {
  const item = document.createElement("li"), time = document.createElement("time"), what = document.createElement("span");
  time.dateTime = new Date(atMs).toISOString();
  time.textContent = clock(atMs);
  what.textContent = text;
  item.append(time, what);
  const log = at("log");
  log.prepend(item);
  while (log.children.length > LISTED) log.lastChild.remove();
  at("no-events").hidden = true;
}

const many = (count, one, more) => count + " " + (count === 1 ? one : more);

const born = ({ threads }) => threads.filter(({ threadId }) => threadId >= 0);

const lostLocks = (keeper) => Object.values(keeper ? keeper.lost : {}).reduce((sum, count) => sum + count, 0);

const nearState = ({ state, reason }) => state + (reason ? ": " + reason : "");

const reasonsOf = ({ ready, reasons }) => reasons.length > 0 ? (ready ? ", but " : ": ") + reasons.join("; ") : "";

function compare(before, now) {
  const say = (text) => tell(now.at, text);
  const healthOf = ({ health }) => (health.ready ? "ready" : "not ready") + reasonsOf(health);
  if (healthOf(before) !== healthOf(now)) say("The manager is " + healthOf(now));
  const [a, b] = [before.stats, now.stats];
  if (a.breaker.state === "closed" && b.breaker.state !== "closed") say("Redis is away: the breaker opened");
  if (a.breaker.state !== "closed" && b.breaker.state === "closed") say("Redis is back: the breaker closed");
  if (b.primary.rotations > a.primary.rotations) say("The primary client was replaced by a fresh one");
  if (b.recycled > a.recycled) say(many(b.recycled - a.recycled, "worn thread was", "worn threads were") + " recycled");
  const lost = lostLocks(b.keeper) - lostLocks(a.keeper);
  if (lost > 0) say(many(lost, "lock was", "locks were") + " lost");
  if (a.near && b.near && a.near.state !== b.near.state) say("The near cache is now " + nearState(b.near));
  if (a.keeper && a.keeper.state !== b.keeper.state) say("The keeper is now " + b.keeper.state);
  const old = new Map(born(a).map((thread) => [thread.threadId, thread]));
  for (const thread of born(b)) {
    const was = old.get(thread.threadId), name = "Thread " + thread.threadId;
    old.delete(thread.threadId);
    if (!was) { say(name + " was added, " + thread.state); continue; }
    if (was.state !== thread.state) say(name + " is " + thread.state);
    if (thread.failed > was.failed) say(many(thread.failed - was.failed, "task", "tasks") + " failed in thread " + thread.threadId);
    if (thread.reconnects > was.reconnects) say(name + " reconnected");
  }
  for (const id of old.keys()) say("Thread " + id + " is gone");
}

function rateOf(before, now) {
  if (!before || now.at <= before.at) return 0;
  const old = new Map(born(before.stats).map((thread) => [thread.threadId, thread]));
  const settled = born(now.stats).reduce((sum, thread) => {
    const was = old.get(thread.threadId) || { done: 0, failed: 0 };
    return sum + thread.done + thread.failed - was.done - was.failed;
  }, 0);
  return Math.max(settled, 0) * 1000 / (now.at - before.at);
}

const CELLS = Array.from(document.querySelectorAll("thead th"), ({ textContent }) => textContent);
const TONES = { ready: "ok", closed: "idle", dead: "bad" };

function rowOf(id) {
  const row = document.createElement("tr");
  row.setAttribute("role", "row");
  row.id = id;
  for (const [i, label] of CELLS.entries()) {
    const cell = document.createElement(i === 0 ? "th" : "td");
    cell.setAttribute("role", i === 0 ? "rowheader" : "cell");
    if (i === 0) cell.scope = "row";
    cell.dataset.label = label;
    cell.append(document.createElement(label === "State" ? "span" : "b"));
    if (label === "Loop busy") cell.prepend(Object.assign(document.createElement("i"), { className: "bar" }));
    row.append(cell);
  }
  return row;
}

function fill(bar, share) {
  bar.style.setProperty("--share", Math.min(share, 1).toFixed(3));
}

function showThreads(threads) {
  const body = at("rows"), left = new Set(body.children);
  for (const [i, thread] of threads.entries()) {
    const isBorn = thread.threadId >= 0, id = isBorn ? "thread-" + thread.threadId : "unborn-" + i;
    const row = at(id) || body.appendChild(rowOf(id));
    left.delete(row);
    const { out, idle, waiting, max } = thread.dedicated;
    const texts = [isBorn ? thread.threadId : "new", thread.state, whole(thread.running), whole(thread.done), whole(thread.failed),
      whole(thread.reconnects), percent(thread.loopBusy), whole(thread.heapMb) + NBSP + "MB",
      out + " out, " + idle + " idle, " + waiting + " waiting, of " + max];
    texts.forEach((text, column) => write(row.children[column].lastChild, String(text)));
    row.children[1].lastChild.dataset.tone = TONES[thread.state] || "warn";
    fill(row.children[6].firstChild, thread.loopBusy);
  }
  for (const row of left) row.remove();
}

function showHealth(health) {
  const { live, ready } = health, reasons = reasonsOf(health);
  if (ready) return write(at("health"), "Ready" + reasons, reasons ? "warn" : "ok");
  write(at("health"), (live ? "Not ready" : "Ended") + reasons, live ? "warn" : "bad");
}

function showNear(near) {
  const { hits, misses } = near.totals, hit = hits.own + hits.shared;
  write(at("hits"), hit + misses > 0 ? percent(hit / (hit + misses)) : "–");
  const size = whole(near.usedBytes / 2 ** 20) + " of " + whole(near.maxBytes / 2 ** 20) + NBSP + "MB";
  write(at("hits-note"), "of " + whole(hit + misses) + " reads, " + whole(near.invalidated) + " invalidated, " + size);
  write(at("near-note"), near.advice || nearState(near), near.advice || near.state !== "on" ? "warn" : "idle");
}

function show(now) {
  const { stats } = now, { connections, primary, breaker, threads } = stats;
  if (last) compare(last, now);
  const rate = rateOf(last, now), busy = threads.reduce((sum, { loopBusy }) => sum + loopBusy, 0) / (threads.length || 1);
  write(at("rate"), whole(rate));
  write(at("rate-note"), "peak " + whole(draw("rate", rate)));
  write(at("queue"), whole(stats.queue.size));
  write(at("queue-note"), "peak " + whole(draw("queue", stats.queue.size)) + ", running " + whole(threads.reduce((sum, { running }) => sum + running, 0)));
  write(at("busy"), percent(busy));
  write(at("busy-note"), "peak " + percent(draw("busy", busy, 1)));
  write(at("connections"), connections.open + (connections.max === null ? "" : " of " + connections.max));
  write(at("connecting"), (connections.max === null ? "no limit set, " : "") + connections.connecting + " connecting");
  at("budget").hidden = connections.max === null;
  if (connections.max !== null) fill(at("budget"), connections.open / connections.max);
  write(at("breaker"), breaker.state);
  write(at("breaker-note"), breaker.state === "closed" ? "Redis answers connects" : "Redis is away, one prober tries for all");
  write(at("primary"), primary.state);
  write(at("primary-note"), "age " + duration(primary.ageMs) + ", " + many(primary.rotations, "rotation", "rotations"));
  at("locks").hidden = !stats.keeper;
  if (stats.keeper) {
    const { held, waiting, extended, state } = stats.keeper;
    write(at("held"), whole(held));
    write(at("held-note"), whole(waiting) + " waiting, " + whole(extended) + " times extended, " + whole(lostLocks(stats.keeper)) + " lost");
    write(at("keeper"), "keeper " + state, held === 0 || state === "connected" ? "idle" : state === "ended" ? "bad" : "warn");
  }
  at("near").hidden = !stats.near;
  if (stats.near) showNear(stats.near);
  write(at("recycled"), stats.recycled > 0 ? many(stats.recycled, "was", "were") + " recycled" : "");
  showThreads(threads);
  showHealth(now.health);
  write(at("seen"), clock(now.at));
  last = now;
}

const url = new URL(location.href);
url.searchParams.set("stats", "");

async function ask() {
  const response = await fetch(url, { cache: "no-store", signal: AbortSignal.timeout(Math.max(5000, 2 * everyMs)) });
  if (!response.ok) throw new Error("answered " + response.status);
  return response.json();
}

async function look() {
  const mine = ++round;
  const [now, error] = await ask().then((now) => [now], (error) => [undefined, error]);
  if (mine !== round) return;
  if (now) {
    if (failures > 0) tell(now.at, "The process answers again");
    failures = 0;
    show(now);
  } else {
    if (failures++ === 0) tell(Date.now(), "The process does not answer: " + error.message);
    write(at("health"), "No answer" + (last ? " since " + clock(last.at) : ""), "bad");
  }
  timer = setTimeout(look, everyMs);
}

at("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  round++;
  clearTimeout(timer);
  at("pause").setAttribute("aria-pressed", String(isPaused));
  if (isPaused) write(at("health"), "Paused", "idle");
  else look();
});

look();
`;
