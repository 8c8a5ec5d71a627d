export { dashboard, type DashboardOptions, type Observed, type RequestHandler } from "./main/dashboard.js";
