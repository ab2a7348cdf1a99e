import { Feed, attempt, now } from "./feed.js";

const KEPT_LINES = 200;
const EARLIER_LINES = 100;
const SHOWN_CHARACTERS = 4_000;
const ECHO_TIMEOUT_MS = 5_000;

const $ = (id) => document.getElementById(id);

let feed, wasLost, unconfirmed, arrived; // set by join()
let flushTimer = 0;

function onMessage(content) {
  const raw = JSON.stringify(content.data);
  const index = unconfirmed.findIndex((sent) => sent.raw === raw);
  if (index >= 0) unconfirmed.splice(index, 1);
  addLine({ ...lineOf(content), isOwn: index >= 0 });
}

/** Return the line for a message. It may be anything: every program that can publish in Redis can write here. */
function lineOf({ data, text, base64 }) {
  if (base64 !== undefined) return { text: `(binary, ${atob(base64).length} bytes)` };
  if (text !== undefined) {
    if (/^Client #[^\n]{1,128} left the chat$/.test(text)) return { notice: text };
    const classic = /^(Client #[^\n]{1,128}?) says: ([^]*)$/.exec(text);
    return classic ? { from: classic[1], text: classic[2] } : { text };
  }
  if (typeof data === "string") return { text: data };
  if (!["string", "number"].includes(typeof data?.text)) return { text: JSON.stringify(data), isCode: typeof data === "object" };
  return { from: typeof data.from === "string" ? data.from.trim().slice(0, 40) : "", text: String(data.text) };
}

/** Show above the other lines what the room's history has up to a position. */
async function showEarlier(room, { offset, epoch }) {
  const current = feed;
  const query = new URLSearchParams({ limit: EARLIER_LINES, reverse: true, since: offset + 1, epoch });
  const answer = await fetch(`rooms/${encodeURIComponent(room)}/history?${query}`).then((response) => response.json()).catch(() => null);
  if (feed !== current || !answer?.result) return; // another room by now, or a history that this client may not read
  const made = document.createDocumentFragment();
  for (const { data, text, base64 } of answer.result.publications.reverse()) {
    const content = base64 !== undefined ? { base64 } : text !== undefined ? { text } : { data };
    made.append(elementOf(lineOf(content), made.lastElementChild));
  }
  $("log").prepend(made);
  $("log").scrollTop = $("log").scrollHeight;
}

function addLine(line) {
  arrived.push({ ...line, at: new Date() });
  if (arrived.length > KEPT_LINES) arrived.shift();
  // One layout for all that comes within a frame. Not requestAnimationFrame, which stops in hidden tabs.
  flushTimer ||= setTimeout(flush, 16);
}

function flush() {
  const log = $("log");
  const wasAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  flushTimer = 0;
  for (const line of arrived.splice(0)) log.append(elementOf(line, log.lastElementChild));
  while (log.childElementCount > KEPT_LINES) log.firstElementChild.remove();
  if (wasAtEnd) log.scrollTop = log.scrollHeight;
}

/** The only way into the log for what came from outside: append() makes text nodes of strings, never markup. */
function element(tag, className, ...children) {
  const made = document.createElement(tag);
  made.className = className;
  made.append(...children);
  return made;
}

function elementOf({ notice, from = "", text, isOwn, isCode, at }, previous) {
  if (notice) return element("p", "notice", notice);
  // A message of the history has no time.
  const time = element("time", "", at?.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }) ?? "");
  if (at) time.dateTime = at.toISOString();
  const name = from ? element("bdi", "from", from) : element("i", "", "no name");
  const hue = [...from].reduce((hash, character) => (hash * 31 + character.codePointAt(0)) % 360, 0);
  if (from && !isOwn) name.style.setProperty("--hue", hue);
  const sender = `${isOwn ? "own" : "other"} ${from} ${time.textContent}`;
  const shown = text.length > SHOWN_CHARACTERS ? `${text.slice(0, SHOWN_CHARACTERS)} ... (${text.length} characters)` : text;
  const message = element("div", isOwn ? "message own" : "message",
    element("p", "by", name, time), element("p", isCode ? "said code" : "said", shown));
  message.classList.toggle("follows", previous?.dataset.sender === sender);
  message.dataset.sender = sender;
  return message;
}

const STATE_TEXTS = {
  open: () => `Connected to ${location.host}`,
  receiving: () => `Receiving only, from ${location.host}`,
  connecting: () => `Connecting to ${location.host}`,
  ended: ({ endReason }) => `Disconnected: ${endReason}`,
  waiting: ({ retryAt }) => `Reconnecting in ${Math.max(1, Math.ceil((retryAt - now()) / 1000))} s`,
};

function onChatState(current) {
  const { state, isUp } = current;
  const before = $("status").dataset.state;
  const wasUp = before === "open" || before === "receiving";
  $("status").textContent = STATE_TEXTS[state](current);
  if (state === before) return;
  $("status").dataset.state = state;
  $("send").disabled = state !== "open";
  $("hint").hidden = state !== "receiving";
  if (isUp) $("announcement").textContent = $("status").textContent;
  if (wasUp && !isUp) {
    $("announcement").textContent = state === "ended" ? $("status").textContent : "Connection lost, reconnecting";
    wasLost = true;
  }
  if (isUp && wasLost) {
    addLine({ notice: "Connected again." });
    wasLost = false;
  }
}

/** Return why a name cannot be a room's (roomcast/model/channels.py, and what the path of a URL cannot carry), or "". */
function roomFault(name) {
  if (name === undefined || attempt(() => encodeURIComponent(name)) === undefined) return "This is not valid text.";
  if (new TextEncoder().encode(name).length > 128) return "This is too long: at most 128 bytes.";
  return /[\u0000-\u001f\u007f-\u009f/{}\ufffd]|^\.{1,2}$/.test(name) ? "No slashes, braces or control characters, please." : "";
}

function join() {
  const hash = location.hash.slice(1);
  const room = hash ? attempt(() => decodeURIComponent(hash)) : new URLSearchParams(location.search).get("room") || "lobby";
  const fault = roomFault(room);
  document.title = `${room ?? hash} · Roomcast`;
  $("room").value = room ?? hash;
  $("room").setCustomValidity(fault);
  $("log").replaceChildren();
  arrived = [];
  unconfirmed = [];
  feed?.close();
  feed = null;
  wasLost = false;
  $("status").dataset.state = "connecting";
  if (fault) return refuse(fault);
  const path = `rooms/${encodeURIComponent(room)}`;
  feed = new Feed(`ws/${path}`, `sse/${path}`, {
    recovers: true,
    onMessage,
    onStart: (position) => showEarlier(room, position),
    onLoss: () => addLine({ notice: "Some messages are missing here: the server no longer has them." }),
    onState: onChatState,
  });
}

/** Join no room, and say why: in another one the messages would reach the wrong people. */
function refuse(fault) {
  $("status").dataset.state = "refused";
  $("status").textContent = "Not in a room";
  $("announcement").textContent = `${$("room").value} cannot be the name of a room. ${fault}`;
  $("send").disabled = true;
  $("hint").hidden = true;
  addLine({ notice: $("announcement").textContent });
}

function randomName() {
  const pick = (words) => words.split(" ")[Math.floor(Math.random() * 10)];
  return `${pick("Brave Calm Clever Gentle Jolly Kind Lucky Quiet Sunny Swift")} ${
    pick("Badger Falcon Heron Lynx Otter Panda Robin Seal Tiger Wren")}`;
}

function setName(name) {
  $("name").value = name?.trim() || randomName();
  attempt(() => localStorage.setItem("roomcast.name", $("name").value));
}

$("name").addEventListener("change", () => setName($("name").value));
$("room").addEventListener("input", () => $("room").setCustomValidity(roomFault($("room").value.trim())));
$("room-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const wanted = $("room").value.trim();
  if (wanted) location.hash = encodeURIComponent(wanted); // hashchange joins
});
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("message").value.trim();
  if (!text || feed?.state !== "open") return;
  const raw = JSON.stringify({ from: $("name").value, text });
  unconfirmed.push({ raw, text, sentAt: now() });
  feed.send(raw);
  $("message").value = "";
  $("log").scrollTop = $("log").scrollHeight;
});

setName(attempt(() => localStorage.getItem("roomcast.name")));
join();
addEventListener("hashchange", join);
setInterval(() => {
  if (feed) onChatState(feed);
  while (unconfirmed.length > 0 && now() - unconfirmed[0].sentAt > ECHO_TIMEOUT_MS) {
    addLine({ notice: `Not back after ${ECHO_TIMEOUT_MS / 1000} s, so it may be lost: ${unconfirmed.shift().text}` });
  }
}, 1000);
