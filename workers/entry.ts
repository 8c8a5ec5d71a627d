/** The file that piscina loads in each thread. It must not throw while loading: piscina would start it over for ever. */
export { serve as default } from "../src/thread/serve.js";
