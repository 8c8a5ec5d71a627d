/** The file of the keeper thread, which extends the locks of the other threads. */
import { keep } from "../src/keeper/serve.js";

keep();
