// Does with the SDK what a test asks for, in Node.js and in browsers, and tells what the SDK tells.

import { runAll } from "./behaviours.mjs";
import { BEHAVIOURS } from "./maps.mjs";

const CLIENT_EVENTS = [
  "connecting", "connected", "disconnected", "error", "message",
  "subscribed", "subscribing", "unsubscribed", "publication", "join", "leave",
];
const SUBSCRIPTION_EVENTS = ["subscribing", "subscribed", "unsubscribed", "publication", "join", "leave", "error"];

// In the Protobuf encoding payloads are bytes; the tests' are JSON in them.
const CODECS = {
  json: { encode: (value) => value, decode: (data) => data },
  protobuf: {
    encode: (value) => new TextEncoder().encode(JSON.stringify(value)),
    decode: (data) => (data.length ? JSON.parse(new TextDecoder().decode(data)) : undefined),
  },
};
const PAYLOADS = ["data", "connInfo", "chanInfo"];

/** Returns a function that does one request: {call, client, ...}. Tokens are given out in their order, the last for ever. */
export function createDriver(classes, defaults, emit) {
  const clients = new Map();

  const calls = {
    open({ client, encoding, endpoints, tokens, data, options }) {
      const codec = CODECS[encoding];
      const sdk = new classes[encoding](endpoints, {
        ...defaults,
        ...options,
        ...tokenOptions(tokens, () => emit({ client, event: "getToken" })),
        ...(data === undefined ? {} : { data: codec.encode(data) }),
      });
      clients.set(client, { sdk, codec });
      listen(sdk, CLIENT_EVENTS, codec, { client });
    },
    connect: ({ sdk }) => sdk.connect(),
    disconnect: ({ sdk }) => sdk.disconnect(),
    subscribe({ sdk, codec, client, channel, tokens, states, options }) {
      const given = {
        ...tokenOptions(tokens, () => emit({ client, channel, event: "getToken" })),
        ...(states === undefined ? {} : { getState: async () => states.shift() }),
      };
      const subscription = sdk.newSubscription(channel, { ...options, ...given });
      listen(subscription, SUBSCRIPTION_EVENTS, codec, { client, channel });
      subscription.subscribe();
    },
    unsubscribe({ sdk, channel }) {
      const subscription = sdk.getSubscription(channel);
      subscription.unsubscribe();
      sdk.removeSubscription(subscription);
    },
    publish: ({ sdk, codec, channel, data }) => sdk.publish(channel, codec.encode(data)),
    presence: ({ sdk, channel }) => sdk.presence(channel),
    presenceStats: ({ sdk, channel }) => sdk.presenceStats(channel),
    history: ({ sdk, channel, options }) => sdk.history(channel, options),
    deltaStats: ({ sdk, channel }) => sdk.getSubscription(channel).deltaStats(),
    rpc: ({ sdk, codec, method, data }) => sdk.rpc(method, codec.encode(data)),
    send: ({ sdk, codec, data }) => sdk.send(codec.encode(data)),
    maps: ({ encoding, settings }) =>
      runAll(BEHAVIOURS, {
        ...settings,
        Sdk: classes[encoding],
        codec: CODECS[encoding],
        options: { ...defaults, ...settings.options },
      }),
  };

  function listen(source, names, codec, origin) {
    for (const event of names) {
      source.on(event, (context) => emit({ ...plain(context, codec), ...origin, event }));
    }
  }

  return async (request) => {
    const { sdk, codec } = clients.get(request.client) ?? {};
    return plain((await calls[request.call]({ ...request, sdk, codec })) ?? {}, codec);
  };
}

function tokenOptions(tokens, onAsked) {
  if (tokens === undefined) return {};
  const [token, ...later] = tokens;
  return {
    token,
    getToken: async () => {
      onAsked();
      return later.length > 1 ? later.shift() : later[0];
    },
  };
}

function plain(value, codec) {
  if (Array.isArray(value)) return value.map((each) => plain(each, codec));
  if (value === null || typeof value !== "object") return value;
  if (value instanceof Error) return { code: value.code, message: value.message };
  return Object.fromEntries(
    Object.entries(value).map(([name, each]) => [
      name,
      PAYLOADS.includes(name) && each != null ? codec.decode(each) : plain(each, codec),
    ]),
  );
}
