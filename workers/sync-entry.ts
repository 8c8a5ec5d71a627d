/** The file of a helper thread, which does the I/O of its starter's synchronous calls. */
import { serveCalls } from "../src/helper/serve.js";

serveCalls();
