/**
 * The file that piscina loads in each thread. CommonJS, because piscina requires it, and where a thread is ended while it
 * requires a module, Node aborts the whole process (`IsGraphAsync`); an import that is under way just ends with it.
 * It must not throw while loading: piscina would start it over for ever. What went wrong is said by the one job of the thread.
 */
import type { serve } from "../src/thread/serve.js" with { "resolution-mode": "import" };

const loaded: Promise<typeof serve> = import("../src/thread/serve.js").then(
  (module) => module.serve,
  (error: unknown) => () => Promise.reject(error),
);

module.exports = loaded;
