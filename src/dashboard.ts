export { dashboard, type DashboardOptions, type Observed, type RequestHandler } from "./main/observe/dashboard.js";
