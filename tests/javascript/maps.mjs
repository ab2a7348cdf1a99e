// How maps behave for the SDK. Those with numbers are the behaviours that the SDK's own authors test.

import { byKey, equal } from "./behaviours.mjs";

const ENG = { key: "team", cmp: "eq", val: "eng" };
const SALES = { key: "team", cmp: "eq", val: "sales" };

/** Returns one of values that differ in a little. */
const large = (number) => ({ round: number, text: "the same in all of them, ".repeat(20) });

const deltas = ({ subscription }) => {
  const { numFullPayloads, numDeltaPayloads } = subscription.deltaStats();
  return [numFullPayloads, numDeltaPayloads];
};

export const BEHAVIOURS = {
  "01 an empty ephemeral map is synced without entries": async (test) => {
    const map = test.map(await test.client(), test.channel("streamless"));

    equal((await map.next("subscribed")).state, []);
    equal((await map.next("sync")).entries, []);
  },

  "02 keys set before come in the state and in the sync": async (test) => {
    const channel = test.channel("streamless");
    const values = { k1: { n: 1 }, k2: { n: 2 }, k3: { n: 3 } };
    await test.setAll(channel, values);

    const map = test.map(await test.client(), channel);
    const { state } = await map.next("subscribed");
    const { entries } = await map.next("sync");

    equal(byKey(state), values);
    equal(byKey(entries), values);
    for (const entry of entries) equal(["removed" in entry, "score" in entry], [false, false]);
  },

  "03 a key set by the API arrives as an update": async (test) => {
    const channel = test.channel("streamless");
    const map = await test.synced(await test.client(), channel);

    await test.set(channel, "k", { n: 1 });

    equal(await map.updates(1), [{ key: "k", data: { n: 1 } }]);
  },

  "04 set and remove by the API arrive in this order": async (test) => {
    const channel = test.channel("streamless");
    const map = await test.synced(await test.client(), channel);

    await test.set(channel, "k", { n: 1 });
    await test.remove(channel, "k");

    equal(await map.updates(2), [{ key: "k", data: { n: 1 } }, { key: "k", removed: true }]);
  },

  "05 the client's own publish and remove come back": async (test) => {
    const map = await test.synced(await test.client(), test.channel("streamless"));

    await map.subscription.publish("k", test.codec.encode({ n: 1 }));
    await map.subscription.remove("k");

    equal(await map.updates(2), [{ key: "k", data: { n: 1 } }, { key: "k", removed: true }]);
  },

  "06 a persistent map is recoverable": async (test) => {
    const channel = test.channel("positioned");
    await test.setAll(channel, { k1: 1, k2: 2 });

    const map = test.map(await test.client(), channel);
    const { recoverable, state } = await map.next("subscribed");

    equal([recoverable, byKey(state)], [true, { k1: 1, k2: 2 }]);
    equal(await map.entries(), { k1: 1, k2: 2 });
  },

  "07 pages are one sync": async (test) => {
    const channel = test.channel("positioned");
    const values = { k1: 1, k2: 2, k3: 3, k4: 4, k5: 5 };
    await test.setAll(channel, values);

    const map = await test.map(await test.client(), channel, { pageSize: 2 });

    equal(await map.entries(), values);
    equal(map.of("sync").length, 1);
  },

  "08 after pages a new key arrives as an update": async (test) => {
    const channel = test.channel("positioned");
    await test.setAll(channel, { k1: 1, k2: 2, k3: 3 });
    const map = await test.synced(await test.client(), channel, { pageSize: 2 });

    await test.set(channel, "k4", 4);

    equal(await map.updates(1), [{ key: "k4", data: 4 }]);
  },

  "09 a persistent map is recovered after a disconnect": async (test) => {
    const channel = test.channel("positioned");
    const client = await test.client();
    const map = await test.synced(client, channel);
    client.disconnect();
    await test.set(channel, "k", 1);

    client.connect();

    equal((await map.next("subscribed")).recovered, true);
  },

  "10 an ephemeral map is synced again after a disconnect": async (test) => {
    const channel = test.channel("streamless");
    const client = await test.client();
    await test.set(channel, "k", 1);
    const map = test.map(client, channel);
    equal((await map.next("subscribed")).recoverable, false);
    await map.next("sync");
    client.disconnect();

    client.connect();

    equal(await map.entries(), { k: 1 });
  },

  "11 what one client publishes another one gets": async (test) => {
    const channel = test.channel("streamless");
    const a = await test.synced(await test.client(), channel);
    await a.subscription.publish("k1", test.codec.encode(1));
    await a.subscription.publish("k2", test.codec.encode(2));
    equal(await a.updates(2), [{ key: "k1", data: 1 }, { key: "k2", data: 2 }]);

    const b = test.map(await test.client(), channel);
    equal(await b.entries(), { k1: 1, k2: 2 });
    await a.subscription.publish("k3", test.codec.encode(3));

    for (const map of [a, b]) equal(await map.updates(1), [{ key: "k3", data: 3 }]);
  },

  "12 client_key client_id: the key is the connection's id": async (test) => {
    const client = await test.client();
    const map = await test.synced(client, test.channel("clientkey"));

    await map.subscription.publish("any", test.codec.encode(1));

    equal(await map.updates(1), [{ key: client.id, data: 1 }]);
  },

  "13 a persistent map is recovered after unsubscribe and subscribe": async (test) => {
    const channel = test.channel("positioned");
    const map = await test.synced(await test.client(), channel);
    map.subscription.unsubscribe();
    await test.setAll(channel, { k1: 1, k2: 2 });

    map.subscription.subscribe();

    equal((await map.next("subscribed")).recovered, true);
    equal(await map.updates(2), [{ key: "k1", data: 1 }, { key: "k2", data: 2 }]);
    await test.set(channel, "k3", 3);
    equal(await map.updates(1), [{ key: "k3", data: 3 }]);
  },

  "14 a trimmed stream: error 112, and the map is loaded again": async (test) => {
    const [map, values] = await missesMoreThanTheStream(test, {});

    map.subscription.subscribe();

    equal((await map.next("subscribed")).recovered, false);
    equal(await map.entries(), values);
  },

  "15 presence: clients are keys of the map that watchers hold": async (test) => {
    const channel = test.channel("prestest");
    const watched = `prescli:${channel}`;
    const watcher = await test.client();
    const presence = test.map(watcher, watched, {}, "MapClients");
    equal(await presence.entries(), {});
    const [a, b] = [await test.client(), await test.client()];

    const mapOfA = await test.synced(a, channel);
    equal((await presence.next("update")).info.client, a.id);
    const mapOfB = await test.synced(b, channel);
    equal((await presence.next("update")).key, b.id);
    mapOfA.subscription.unsubscribe();
    equal(await presence.updates(1), [{ key: a.id, removed: true }]);
    mapOfB.subscription.unsubscribe();
    equal(await presence.updates(1), [{ key: b.id, removed: true }]);

    equal(await test.map(await test.client(), watched, {}, "MapClients").entries(), {});
  },

  "16 a trimmed stream with the strategy fatal: unsubscribed with 112": async (test) => {
    const [map] = await missesMoreThanTheStream(test, { unrecoverableStrategy: "fatal" });
    await map.next("unsubscribed");

    map.subscription.subscribe();

    equal((await map.next("unsubscribed")).code, 112);
  },

  "17 a filter by tags lets only matching keys through": async (test) => {
    const channel = test.channel("tagged");
    await setTeams(test, channel);

    const map = test.map(await test.client(), channel, { tagsFilter: ENG });

    equal(await map.entries(), { ada: 1, bob: 2 });
  },

  "18 recovery: updates, and no other sync": async (test) => {
    const channel = test.channel("positioned");
    const client = await test.client();
    const map = await test.synced(client, channel);
    client.disconnect();
    await test.set(channel, "missed", 1);

    client.connect();
    equal(await map.updates(1), [{ key: "missed", data: 1 }]);
    await test.set(channel, "live", 2);

    equal(await map.updates(1), [{ key: "live", data: 2 }]);
    equal(map.of("sync").length, 1);
  },

  "19 another filter: the map is loaded again": async (test) => {
    const channel = test.channel("tagged");
    await setTeams(test, channel);
    const map = await test.synced(await test.client(), channel, { tagsFilter: ENG });
    map.subscription.unsubscribe();
    map.subscription.setTagsFilter(SALES);

    map.subscription.subscribe();

    equal((await map.next("subscribed")).recovered, false);
    equal(await map.entries(), { eve: 3 });
  },

  "20 an empty sync, then the raw bytes of a key": async (test) => {
    const channel = test.channel("streamless");
    const map = test.map(await test.client(), channel);
    equal((await map.next("sync")).entries, []);

    await test.set(channel, "k", { text: "ünï", list: [1, null, true] });

    equal(await map.updates(1), [{ key: "k", data: { text: "ünï", list: [1, null, true] } }]);
  },

  "21 two keys set before can be decoded": async (test) => {
    const channel = test.channel("positioned");
    await test.setAll(channel, { k1: { n: 1 }, k2: "text" });

    equal(await test.map(await test.client(), channel).entries(), { k1: { n: 1 }, k2: "text" });
  },

  "22 deltas of one key: one whole value, two differences": async (test) => {
    const channel = test.channel("mapdelta");
    const map = await test.synced(await test.client(), channel, { delta: "fossil" });

    for (const number of [1, 2, 3]) await test.set(channel, "k", large(number));

    equal(await map.updates(3), [1, 2, 3].map((number) => ({ key: "k", data: large(number) })));
    equal(deltas(map), [1, 2]);
    const { bytesReceived, bytesDecoded } = map.subscription.deltaStats();
    equal(bytesReceived < bytesDecoded, true);
  },

  "delta 1 two keys have chains of their own": async (test) => {
    const channel = test.channel("mapdelta");
    const map = await test.synced(await test.client(), channel, { delta: "fossil" });
    const expected = [];

    for (const number of [1, 2, 3]) {
      for (const key of ["a", "b"]) {
        await test.set(channel, key, { key, ...large(number) });
        expected.push({ key, data: { key, ...large(number) } });
      }
    }

    equal(await map.updates(6), expected);
    equal(deltas(map), [2, 4]);
  },

  "delta 2 a difference after a recovery by reconnecting": async (test) => {
    const client = await test.client();
    await differsAfterRecovery(test, client, {
      leave: () => client.disconnect(),
      comeBack: () => client.connect(),
    });
  },

  "delta 3 a difference after a recovery by subscribing again": async (test) => {
    await differsAfterRecovery(test, await test.client(), {
      leave: ({ subscription }) => subscription.unsubscribe(),
      comeBack: ({ subscription }) => subscription.subscribe(),
    });
  },

  "delta 4 differences to the values of the state": async (test) => {
    const channel = test.channel("mapdelta");
    for (const key of ["a", "b"]) await test.set(channel, key, { key, ...large(1) });
    const map = test.map(await test.client(), channel, { delta: "fossil" });
    equal(await map.entries(), { a: { key: "a", ...large(1) }, b: { key: "b", ...large(1) } });

    for (const key of ["a", "b"]) await test.set(channel, key, { key, ...large(2) });

    equal(await map.updates(2), ["a", "b"].map((key) => ({ key, data: { key, ...large(2) } })));
    equal(deltas(map)[1], 2);
  },

  "delta 5 after a removal the value is whole": async (test) => {
    const channel = test.channel("mapdelta");
    const map = await test.synced(await test.client(), channel, { delta: "fossil" });

    await test.set(channel, "k", large(1));
    await test.remove(channel, "k");
    await test.set(channel, "k", large(2));
    await test.set(channel, "k", large(3));

    const values = [1, 2, 3].map((number) => ({ key: "k", data: large(number) }));
    equal(await map.updates(4), [values[0], { key: "k", removed: true }, values[1], values[2]]);
    equal(deltas(map)[1], 1);
  },

  "more 1 a key that expires is removed": async (test) => {
    const channel = test.channel("shortttl");
    const map = await test.synced(await test.client(), channel);

    await test.set(channel, "k", 1);

    equal(await map.updates(2), [{ key: "k", data: 1 }, { key: "k", removed: true }]);
  },

  "more 2 a map that is cleared is loaded again": async (test) => {
    const channel = test.channel("positioned");
    await test.set(channel, "k", 1);
    const map = await test.synced(await test.client(), channel);

    await test.api("map_clear", { channel });

    equal(await map.entries(), {});
    equal((await map.next("subscribed")).recovered, false);
  },

  "more 3 a subscription token is renewed before it expires": async (test) => {
    const [channel, [token, ...later]] = Object.entries(test.tokens)[0];
    let asked = 0;
    let onLast;
    const last = new Promise((resolve) => (onLast = resolve));
    const getToken = async () => {
      asked += 1;
      if (asked === later.length) onLast();
      return later[asked - 1];
    };

    const map = await test.synced(await test.client(), channel, { token, getToken });
    await last;
    await test.set(channel, "k", 1);

    equal(await map.updates(1), [{ key: "k", data: 1 }]);
    equal([map.of("subscribing").length, map.of("unsubscribed").length], [1, 0]);
  },

  "more 4 who filters is told that a key matches no more": async (test) => {
    const channel = test.channel("tagged");
    await setTeams(test, channel);
    const map = await test.synced(await test.client(), channel, { tagsFilter: ENG });

    await test.set(channel, "ada", 5, { tags: { team: "sales" } });
    await test.remove(channel, "bob");

    equal(await map.updates(2), [{ key: "ada", removed: true }, { key: "bob", removed: true }]);
  },

  "more 5 maps that are subscribed before the connection": async (test) => {
    const client = test.newClient();
    const channels = ["streamless", "positioned", "tagged"].map((namespace) => test.channel(namespace));
    for (const channel of channels) await test.set(channel, "k", channel);
    const maps = channels.map((channel) => test.map(client, channel));

    client.connect();

    for (const map of maps) equal(await map.entries(), { k: map.channel });
  },

  "more 6 a map that is larger than a reply": async (test) => {
    const channel = test.channel("positioned");
    const values = Object.fromEntries(Array.from({ length: 300 }, (_, n) => [`k${n}`, large(n)]));
    const commands = Object.entries(values).map(([key, data]) => ({ map_publish: { channel, key, data } }));
    await test.api("batch", { commands });

    equal(await test.map(await test.client(), channel, { pageSize: 1000 }).entries(), values);
  },

  "more 7 a persistent map that changes while it is loaded": (test) => changesWhileLoaded(test, "paged"),

  "more 8 an ephemeral map that changes while it is loaded": (test) => changesWhileLoaded(test, "fleeting"),
};

async function setTeams(test, channel) {
  await test.set(channel, "ada", 1, { tags: { team: "eng" } });
  await test.set(channel, "bob", 2, { tags: { team: "eng" } });
  await test.set(channel, "eve", 3, { tags: { team: "sales" } });
}

/** Returns a subscription that has ended, and the values of the map, of which its stream has lost some. */
async function missesMoreThanTheStream(test, options) {
  const channel = test.channel("smallstream");
  const map = await test.synced(await test.client(), channel, options);
  await test.set(channel, "k0", 0);
  await map.updates(1);
  map.subscription.unsubscribe();
  const missed = { k1: 1, k2: 2, k3: 3, k4: 4, k5: 5 };
  await test.setAll(channel, missed);
  return [map, { k0: 0, ...missed }];
}

async function differsAfterRecovery(test, client, { leave, comeBack }) {
  const channel = test.channel("mapdelta");
  const map = await test.synced(client, channel, { delta: "fossil" });
  await test.set(channel, "k", large(1));
  await map.updates(1);
  leave(map);
  await test.set(channel, "k", large(2));

  comeBack(map);
  equal((await map.next("subscribed")).recovered, true);
  equal(await map.updates(1), [{ key: "k", data: large(2) }]);
  const [, before] = deltas(map);
  await test.set(channel, "k", large(3));

  equal(await map.updates(1), [{ key: "k", data: large(3) }]);
  equal(deltas(map)[1], before + 1);
}

/** Loads a map in pages of few keys while they are set and removed, and compares the client's copy with Redis'. */
async function changesWhileLoaded(test, namespace) {
  const channel = test.channel(namespace);
  const keys = Array.from({ length: 24 }, (_, index) => `k${String(index).padStart(2, "0")}`);
  const batch = (changes) => test.api("batch", { commands: changes });
  const set = (key, data) => ({ map_publish: { channel, key, data } });
  await batch(keys.map((key) => set(key, "before")));
  const copy = {};
  const map = test.map(await test.client(), channel, { pageSize: 2 });
  map.subscription.on("update", ({ key, data, removed }) => {
    if (removed) delete copy[key];
    else copy[key] = test.codec.decode(data);
  });
  map.subscription.on("sync", ({ entries }) => {
    for (const key of Object.keys(copy)) delete copy[key];
    for (const { key, data } of entries) copy[key] = test.codec.decode(data);
  });

  for (const step of [5, 7, 11]) {
    await batch(keys.map((_, index) => {
      const key = keys[(index * step) % keys.length];
      return index % 3 ? set(key, `${step}-${index}`) : { map_remove: { channel, key } };
    }));
  }
  await test.set(channel, "marker", 1);
  await map.until(() => "marker" in copy);

  const { entries } = await test.api("map_read_state", { channel, limit: -1 });
  equal(copy, byKey(entries));
}
