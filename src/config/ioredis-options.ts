import { fields, flag, integer, oneOf, text, type Kind } from "./option-kinds.js";

/** Options of ioredis that redthread refuses, each with the reason. */
export const REFUSED_BY_REDTHREAD: ReadonlyMap<string, string> = new Map(
  Object.entries({
    "redthread alone reconnects, see retry.*": "retryStrategy reconnectOnError",
    "a repeated command may run twice": "autoResendUnfulfilledCommands maxRetriesPerRequest himportFieldsets",
    "a command waits in redthread's hands, see redis.whenDown": "enableOfflineQueue offlineQueue commandQueue",
    "redthread says when to connect": "lazyConnect",
    "a client is ready only once the server has loaded its data": "enableReadyCheck",
    "use redis.connectTimeoutMs, which covers the handshake too": "connectTimeout maxLoadingRetryTime",
    "use redis.commandTimeoutMs, which makes no false timeouts in a busy thread":
      "commandTimeout socketTimeout blockingTimeout blockingTimeoutGrace",
    "use shutdown.closeMs": "disconnectTimeout",
    "it reorders MULTI and loses writes before quit; the writes of a loop turn are coalesced without it":
      "enableAutoPipelining autoPipeliningIgnoredCommands",
    "redthread names its connections, see appName": "connectionName",
    "subscriptions come back after every reconnect": "autoResubscribe",
    "use a dedicated client": "monitor",
    "use redis.sentinelName": "name",
    "use redis.tls, and redis.sentinelTls for the sentinels": "enableTLSForSentinelMode sentinelTLS",
    "redthread asks the sentinels anew at every connect, within redis.connectTimeoutMs":
      "sentinelRetryStrategy sentinelReconnectStrategy sentinelCommandTimeout sentinelMaxConnections " +
      "updateSentinels failoverDetector",
    "of Sentinel only the master is used": "role preferredSlaves",
    "use redis.readFrom": "readOnly scaleReads",
    "names are connected to as they are given": "dnsLookup",
    "use redis.clusterNodes": "clusterRetryStrategy redisOptions slotsRefreshTimeout slotsRefreshInterval",
    "redthread makes the socket itself": "Connector",
    "it belongs beside redis.ioredis, not into it":
      "host port path sentinels clusterNodes natMap sentinelUsername sentinelPassword username password db tls keyPrefix scripts url",
  }).flatMap(([reason, names]) => names.split(" ").map((name) => [name, reason] as const)),
);

/** The options that are passed on to ioredis. A new option of ioredis is refused until it is known to be harmless. */
export const IOREDIS_OPTIONS: Kind = fields(
  {
    family: oneOf(0, 4, 6),
    keepAlive: integer(0),
    noDelay: flag(),
    stringNumbers: flag(),
    protocol: oneOf(2, 3),
    replyMapping: oneOf("legacy", "resp3"),
    disableClientInfo: flag(),
    clientInfoTag: text(/^[\w.-]+$/, "must be text of letters, digits, _ . -"),
    showFriendlyErrorStack: flag(),
  },
  REFUSED_BY_REDTHREAD,
);
