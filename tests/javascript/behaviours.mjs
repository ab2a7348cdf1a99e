// What tests of maps share: runs behaviours at the same time, each with clients and channels of its own.

const DEADLINE_MS = 20_000;
const SUBSCRIPTION_EVENTS = ["subscribing", "subscribed", "unsubscribed", "sync", "update", "error"];

/**
 * Runs all behaviours at once.
 *
 * Sdk, codec: the SDK's class, and how payloads of its encoding are made. endpoint: where clients connect.
 * apiUrl, apiKey: of the server API. prefix: of the names of channels.
 * tokens: by channel: subscription tokens in their order. Returns: by the name of each behaviour what failed, or "".
 */
export async function runAll(behaviours, settings) {
  const outcomes = Object.entries(behaviours).map(async ([name, run], index) => {
    const test = new Test({ ...settings, prefix: `${settings.prefix}${index}` });
    try {
      await within(run(test));
      return [name, ""];
    } catch (error) {
      return [name, `${error.stack ?? error}\n${test.heard()}`];
    } finally {
      test.end();
    }
  });
  return Object.fromEntries(await Promise.all(outcomes));
}

/** The clients, channels and calls of one behaviour. */
class Test {
  constructor(settings) {
    Object.assign(this, settings);
    this.clients = [];
    this.maps = [];
  }

  channel(namespace) {
    return `${namespace}:${this.prefix}`;
  }

  /** Returns a client that has not connected yet. */
  newClient() {
    const sdk = new this.Sdk([this.endpoint], this.options);
    this.clients.push(sdk);
    return sdk;
  }

  /** Returns a connected client; `id` is that of its connection. */
  async client() {
    const sdk = this.newClient();
    const connected = new Promise((resolve) => sdk.on("connected", resolve));
    sdk.connect();
    return Object.assign(sdk, { id: (await connected).client });
  }

  /** Subscribes to a map. kind: Map, MapClients or MapUsers. */
  map(client, channel, options = {}, kind = "Map") {
    const given = { minResubscribeDelay: 10, maxResubscribeDelay: 100, ...options };
    const subscription = client[`new${kind}Subscription`](channel, given);
    const map = new MapEvents(subscription, this.codec, channel);
    this.maps.push(map);
    subscription.subscribe();
    return map;
  }

  /** Subscribes to a map, and returns it when it has been synced. */
  async synced(client, channel, options, kind) {
    const map = this.map(client, channel, options, kind);
    await map.next("subscribed");
    await map.next("sync");
    return map;
  }

  async api(method, body) {
    const response = await fetch(`${this.apiUrl}/api/${method}`, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-API-Key": this.apiKey },
      body: JSON.stringify(body),
    });
    const { result, error } = await response.json();
    if (error) throw new Error(`${method}: ${JSON.stringify(error)}`);
    return result;
  }

  set(channel, key, data, options = {}) {
    return this.api("map_publish", { channel, key, data, ...options });
  }

  /** Sets keys one after the other. values: by key. */
  async setAll(channel, values) {
    for (const [key, data] of Object.entries(values)) await this.set(channel, key, data);
  }

  remove(channel, key) {
    return this.api("map_remove", { channel, key });
  }

  heard() {
    return this.maps.map((map) => `${map.channel}: ${JSON.stringify(map.all)}`).join("\n");
  }

  end() {
    for (const client of this.clients) client.disconnect();
  }
}

/** A subscription and its events. all: every event so far. */
class MapEvents {
  constructor(subscription, codec, channel) {
    this.subscription = subscription;
    this.channel = channel;
    this.all = [];
    this.taken = {};
    this.wake = () => {};
    for (const event of SUBSCRIPTION_EVENTS) {
      subscription.on(event, (context) => {
        this.all.push({ event, context: plain(context, codec) });
        this.wake();
      });
    }
  }

  of(event) {
    return this.all.filter((each) => each.event === event).map(({ context }) => context);
  }

  /** Returns the next event of this name that was not returned before. */
  async next(event) {
    const index = this.taken[event] ?? 0;
    this.taken[event] = index + 1;
    await this.until(() => this.of(event).length > index);
    return this.of(event)[index];
  }

  /** Returns the next entries of updates, without what the modes differ in. */
  async updates(count) {
    const found = [];
    while (found.length < count) {
      const { key, data, removed } = await this.next("update");
      found.push(removed ? { key, removed } : { key, data });
    }
    return found;
  }

  /** Returns the data by key of the next sync. */
  async entries() {
    return byKey((await this.next("sync")).entries);
  }

  async until(condition) {
    while (!condition()) await new Promise((resolve) => (this.wake = resolve));
  }
}

/** Returns the data by key of entries, of which no two may have one key. */
export function byKey(entries) {
  const found = Object.fromEntries(entries.map(({ key, data }) => [key, data]));
  equal(Object.keys(found).length, entries.length, "keys that are there once");
  return found;
}

export function equal(actual, expected, what = "value") {
  const [found, wanted] = [actual, expected].map((value) => JSON.stringify(sorted(value)));
  if (found !== wanted) throw new Error(`${what}: ${found} instead of ${wanted}`);
}

function sorted(value) {
  if (Array.isArray(value)) return value.map(sorted);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.keys(value).sort().map((name) => [name, sorted(value[name])]));
}

function plain(value, codec) {
  if (Array.isArray(value)) return value.map((each) => plain(each, codec));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(
    Object.entries(value).map(([name, each]) => [
      name,
      name === "data" && each != null ? codec.decode(each) : plain(each, codec),
    ]),
  );
}

async function within(running) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not done after ${DEADLINE_MS} ms`)), DEADLINE_MS);
  });
  try {
    await Promise.race([running, late]);
  } finally {
    clearTimeout(timer);
  }
}
