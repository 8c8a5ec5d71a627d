import { openClient } from "../clients/open-client.js";
import { addressOf, translated } from "../config/endpoint.js";
import type { Config, Endpoint } from "../config/options.js";
import { noopLogger } from "../core/log.js";
import { connectionName } from "../core/names.js";
import { isUnknown } from "../core/replies.js";
import { ownGate } from "../gate/connect-gate.js";
import { codeAndText, fail, type Finding, warn } from "./report.js";

const SINGLE = "is a single server";

interface Seen {
  readonly node: Endpoint;
  readonly problem?: string;
  /** The masters that this node names. */
  readonly masters: readonly Endpoint[];
}

/**
 * What is wrong with the listed nodes of a Cluster and with the masters that they name. Without a master its slots are not
 * served. A listed node that is no master costs a client only the step to the next node.
 */
export async function examineNodes(config: Config): Promise<Finding[]> {
  const listed = config.redis.clusterNodes ?? [];
  const seen = await Promise.all(listed.map((node) => look(node, config)));
  const masters = new Map(seen.flatMap((one) => one.masters).map((master) => [addressOf(master), master] as const));
  const known = new Set(listed.map(addressOf));
  const others = [...masters.values()].filter((master) => !known.has(addressOf(master)));
  const all = [...seen, ...(await Promise.all(others.map((node) => look(node, config))))];
  return all.flatMap(({ node, problem }) => {
    if (problem === undefined) return [];
    const isNeeded = masters.size === 0 || masters.has(addressOf(node));
    const advice =
      problem === SINGLE
        ? "name a single server by redis.host and port (REDIS_URL)"
        : isNeeded
          ? "look at this node, and at CLUSTER NODES of the others: its slots are served by nobody"
          : "look at this node; if it is gone for good, list another one";
    const judge = isNeeded ? fail : warn;
    return [judge("reachability", `node ${addressOf(node)} ${problem}`, advice)];
  });
}

async function look(node: Endpoint, config: Config): Promise<Seen> {
  const { clusterNodes: _, ...redis } = { ...config.redis, ...node, readFrom: "master" as const };
  const retry = { ...config.retry, attempts: 1, deadlineMs: redis.connectTimeoutMs };
  const name = connectionName(config.appName, "owned");
  const gate = ownGate({ ...config, redis });
  try {
    const client = await openClient({ redis, retry, role: "owned", logger: noopLogger, name, gate }, 0);
    const asked = Promise.all([client.redis.cluster("INFO"), client.redis.cluster("SLOTS")]);
    const [info, rows] = await asked.finally(() => client.close(config.shutdown.closeMs));
    if (!/cluster_state:ok/.test(String(info))) {
      const problem = "says that the Cluster is down: it is off the bus, or slots are served by nobody";
      return { node, problem, masters: [] };
    }
    const masters = rows.map(([, , ...members]) => {
      const [host, port] = members[0]!;
      return translated({ host: host || node.host, port }, config.redis);
    });
    return { node, masters };
  } catch (error) {
    return { node, problem: isUnknown(error) ? SINGLE : codeAndText(error), masters: [] };
  }
}
