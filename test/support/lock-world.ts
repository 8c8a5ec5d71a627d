import { FENCES } from "../../src/locks/lock-scripts.js";
import type { QueuedCommand } from "../../src/commands/ioredis.js";
import { ReplyLostError } from "../../src/core/errors.js";

/** A thread of the model: while it is blocked nothing of it runs, and once it is dead nothing ever will. */
export class ModelThread {
  blockedUntil = 0;
  isDead = false;
  readonly ports: ModelPort[] = [];
}

interface Event {
  readonly at: number;
  readonly order: number;
  readonly thread: ModelThread;
  readonly run: () => void;
  isOver: boolean;
}

interface Timer {
  unref(): Timer;
  readonly event: Event;
}

/** The clock and the timers of a whole schedule. Nothing in it waits for real time. */
export class World {
  now = 1_000;
  /** The thread whose code runs: timers that it starts are its own. */
  current = new ModelThread();
  #events: Event[] = [];
  #order = 0;
  readonly #real = {
    setTimeout: globalThis.setTimeout,
    clearTimeout: globalThis.clearTimeout,
    setImmediate: globalThis.setImmediate,
    MessageChannel: globalThis.MessageChannel,
    clearImmediate: globalThis.clearImmediate,
    now: performance.now.bind(performance),
    date: Date.now,
    hrtime: process.hrtime,
    random: Math.random,
  };
  #seed: number;

  constructor(seed: number) {
    this.#seed = seed;
  }

  at(time: number, thread: ModelThread, run: () => void): Event {
    const event: Event = { at: Math.max(time, this.now), order: this.#order++, thread, run, isOver: false };
    this.#events.push(event);
    return event;
  }

  in(ms: number, thread: ModelThread, run: () => void): Event {
    return this.at(this.now + ms, thread, run);
  }

  sleep(ms: number): Promise<void> {
    return new Promise((resolve) => this.in(ms, this.current, resolve));
  }

  /** A port that lies in its queue is never taken, and never closed. */
  end(thread: ModelThread): void {
    thread.isDead = true;
    for (const port of thread.ports) port.close();
  }

  /** Runs `work` and then all events until `end`, with this clock in place of the real one. */
  async run(end: number, work: () => void): Promise<void> {
    this.#install();
    try {
      work();
      for (;;) {
        await new Promise<void>((resolve) => this.#real.setImmediate(resolve)); // after all promises of the last event
        const next = this.#next();
        if (!next || next.at > end) break;
        this.now = next.at;
        if (next.thread.isDead) continue;
        if (next.thread.blockedUntil > this.now) {
          this.#events.push({ ...next, at: next.thread.blockedUntil, isOver: false });
          continue;
        }
        this.current = next.thread;
        next.run();
      }
    } finally {
      this.#restore();
    }
  }

  #next(): Event | undefined {
    let best: Event | undefined;
    for (const event of this.#events)
      if (!event.isOver && (!best || event.at < best.at || (event.at === best.at && event.order < best.order)))
        best = event;
    if (best) this.#events = this.#events.filter((event) => event !== best && !event.isOver);
    return best;
  }

  #install(): void {
    const start = (run: () => void, ms: number): Timer => {
      const timer: Timer = { unref: () => timer, event: this.in(ms, this.current, run) };
      return timer;
    };
    const channel = (): ModelChannel => new ModelChannel(this);
    Object.assign(globalThis, {
      MessageChannel: function MessageChannel() {
        return channel();
      },
      setTimeout: (run: () => void, ms = 0) => start(run, Math.max(ms, 1)),
      clearTimeout: endTimer,
      setImmediate: (run: () => void): Timer => start(run, 0),
      clearImmediate: endTimer,
    });
    Math.random = () => (this.#seed = (this.#seed * 1_103_515_245 + 12_345) % 2 ** 31) / 2 ** 31;
    performance.now = () => this.now;
    Date.now = () => this.now;
    process.hrtime = (() => [Math.floor(this.now / 1_000), (this.now % 1_000) * 1e6]) as typeof process.hrtime;
  }

  #restore(): void {
    const { now, date, hrtime, random, ...timers } = this.#real;
    Object.assign(globalThis, timers);
    Math.random = random;
    performance.now = now;
    Date.now = date;
    process.hrtime = hrtime;
  }
}

function endTimer(timer?: Timer): void {
  if (timer) timer.event.isOver = true;
}

/** What the scripts of locks do on a server, whose clock may be a little faster or slower. */
export class ModelServer {
  readonly values = new Map<string, { text: string; until: number }>();
  readonly #world: World;
  readonly #rate: number;

  constructor(world: World, rate: number) {
    this.#world = world;
    this.#rate = rate;
  }

  get(key: string): string | undefined {
    const value = this.values.get(key);
    if (value && value.until <= this.#now) this.values.delete(key);
    return this.values.get(key)?.text;
  }

  run({ args }: QueuedCommand): unknown {
    const [lua, count, ...rest] = args.map((arg) => (Buffer.isBuffer(arg) ? arg.toString("latin1") : String(arg)));
    const keys = rest.slice(0, Number(count));
    const values = rest.slice(Number(count));
    if (lua!.includes("'TIME'"))
      return this.#acquire(keys as [string, string], values as [string, string, string, string]);
    if (lua!.includes("'DEL'")) return this.#release(keys[0]!, values[0]!);
    return keys.map((key, i) => this.#extend(key, values[2 * i]!, Number(values[2 * i + 1])));
  }

  #acquire([key, fenceKey]: [string, string], [mark, ttl, , name]: [string, string, string, string]): unknown {
    const held = this.get(key);
    if (held !== undefined) {
      if (!isOwn(held, mark)) return [0, held, this.values.get(key)!.until - this.#now];
      this.#set(key, held, Number(ttl));
      return [1, held];
    }
    const fence = Math.max(Number(this.get(fenceKey) ?? 0) + 1, Math.floor(this.#now * 1_000));
    this.#set(fenceKey, String(fence + FENCES - 1), 1e9);
    const text = `${mark.trimEnd()} ${fence} ${Math.floor(this.#now)} ${name}`;
    this.#set(key, text, Number(ttl));
    return [1, text];
  }

  #extend(key: string, mark: string, ttl: number): number {
    const held = this.get(key);
    if (held === undefined || !isOwn(held, mark)) return 0;
    this.#set(key, held, ttl);
    return 1;
  }

  #release(key: string, mark: string): number {
    const held = this.get(key);
    if (held === undefined || !isOwn(held, mark)) return 0;
    this.values.delete(key);
    return 1;
  }

  #set(key: string, text: string, ttl: number): void {
    this.values.set(key, { text, until: this.#now + ttl });
  }

  get #now(): number {
    return this.#world.now * this.#rate;
  }
}

function isOwn(held: string, mark: string): boolean {
  return held.startsWith(`${mark.trimEnd()} `);
}

/** A connection: commands and replies keep their order, and each takes its time. */
export class ModelConnection {
  static #numbers = 0;
  readonly speaksResp3 = false;
  stream = { number: ++ModelConnection.#numbers };
  /** How long each way takes. */
  delayMs = 1;
  readonly #world: World;
  readonly #server: ModelServer;
  readonly #thread: ModelThread;
  /** The server's end of each connection that was made here, by its number. */
  readonly #ends: Map<number, { isCut: boolean }>;
  #arriveAt = 0;
  #replyAt = 0;

  constructor(world: World, server: ModelServer, thread: ModelThread, ends: Map<number, { isCut: boolean }>) {
    this.#world = world;
    this.#server = server;
    this.#thread = thread;
    this.#ends = ends;
    this.#ends.set(this.stream.number, { isCut: false });
  }

  /** What the server has not read is lost with the connection, and so is each reply on the way. */
  cut(): void {
    this.#ends.get(this.stream.number)!.isCut = true;
    this.stream = { number: ++ModelConnection.#numbers };
    this.#ends.set(this.stream.number, { isCut: false });
    this.#arriveAt = this.#replyAt = this.#world.now;
  }

  sendCommand(command: QueuedCommand): Promise<unknown> {
    const end = this.#ends.get(this.stream.number)!;
    return new Promise((resolve, reject) => {
      const lost = (): void => reject(new ReplyLostError("the connection was lost", { outcome: "unknown" }));
      this.#arriveAt = Math.max(this.#arriveAt, this.#world.now + this.delayMs);
      this.#world.at(this.#arriveAt, NETWORK, () => {
        if (end.isCut) {
          this.#world.in(0, this.#thread, lost);
          return;
        }
        const reply = this.#server.run(command);
        this.#replyAt = Math.max(this.#replyAt, this.#world.now + this.delayMs);
        this.#world.at(this.#replyAt, this.#thread, () => {
          if (end.isCut) lost();
          else resolve(reply);
        });
      });
    });
  }

  async client(_id: string): Promise<number> {
    return this.stream.number;
  }

  call(_client: string, _kill: string, _id: string, number: string): Promise<unknown> {
    this.#world.in(this.delayMs, NETWORK, () => {
      const end = this.#ends.get(Number(number));
      if (end) end.isCut = true;
    });
    return Promise.resolve(1);
  }
}

const NETWORK = new ModelThread();

type Listener = (message?: unknown) => void;

/** One end of a link between two threads. It is of the thread that listens to it first. */
class ModelPort {
  peer!: ModelPort;
  readonly #world: World;
  readonly #listeners: Record<string, Listener[]> = { message: [], close: [] };
  /** What has come before that. */
  readonly #queue: [event: string, message?: unknown][] = [];
  #thread: ModelThread | undefined;
  #isClosed = false;

  constructor(world: World) {
    this.#world = world;
  }

  on(event: string, listener: Listener): void {
    this.#listeners[event]!.push(listener);
    if (this.#thread) return;
    this.#thread = this.#world.current;
    this.#thread.ports.push(this);
    for (const [queued, message] of this.#queue) this.#arrive(queued, message);
  }

  once(event: string, listener: Listener): void {
    this.on(event, listener);
  }

  ref(): void {}

  unref(): void {}

  postMessage(message: unknown): void {
    if (!this.#isClosed) this.#world.in(0.1, NETWORK, () => this.peer.#arrive("message", message));
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = this.peer.#isClosed = true;
    for (const port of [this, this.peer]) this.#world.in(0.1, NETWORK, () => port.#arrive("close"));
  }

  #arrive(event: string, message?: unknown): void {
    if (!this.#thread) this.#queue.push([event, message]);
    else this.#world.in(0, this.#thread, () => this.#listeners[event]!.forEach((listener) => listener(message)));
  }
}

class ModelChannel {
  readonly port1: ModelPort;
  readonly port2: ModelPort;

  constructor(world: World) {
    [this.port1, this.port2] = [new ModelPort(world), new ModelPort(world)];
    this.port1.peer = this.port2;
    this.port2.peer = this.port1;
  }
}
