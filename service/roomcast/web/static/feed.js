const CONNECT_TIMEOUT_MS = 10_000;
const FIRST_RETRY_MS = 500;
const LONGEST_RETRY_MS = 30_000;
const STABLE_MS = 5_000;
const FAILURES_BEFORE_EVENTS = 3;

export const now = () => performance.now();

/** Return the result of an action, or undefined if it throws: for input from URLs, other programs and storage. */
export function attempt(action) {
  try {
    return action();
  } catch {
    return undefined;
  }
}

// Unauthorized, unknown channel, permission denied, bad request.
const REFUSALS = [101, 102, 103, 107];

/** Return whether a client does not reconnect after a close code. */
const isFinal = (code) => (code >= 3500 && code <= 3999) || (code >= 4500 && code <= 4999);

/** Return the content of a text: its JSON value, or the text. */
function contentOf(text) {
  const data = attempt(() => JSON.parse(text));
  return data === undefined ? { text } : { data };
}

/**
 * One channel, by WebSocket; while that keeps failing, by server-sent events, which only receive.
 *
 * Delivery: with `recovers`, as a client with `?envelope=1`: each message once, in order, also after a reconnect, or
 * `onLoss` is called. Without, what is published while no connection is open is missed.
 */
export class Feed {
  #socketUrl; #eventsUrl; #recovers; #onMessage; #onStart; #onLoss; #onState; #socket; #events; #timer;
  #position; // { offset, epoch } of the last message received
  #hasBeenUp = false;
  #isClosed = false;
  #attempts = 0; // since the last connection that lasted; sets the delay
  #failures = 0; // WebSocket attempts in a row that did not open
  retryAt = 0;
  endReason; // why the server has ended it for good

  /**
   * onMessage gets { data }, a JSON value, or { text }, or { base64 }; onStart the first position; onLoss nothing,
   * when messages are lost; onState this feed, whenever its state may have changed.
   */
  constructor(socketPath, eventsPath, { recovers = false, onMessage, onStart = () => {}, onLoss = () => {}, onState = () => {} }) {
    this.#socketUrl = new URL(socketPath, document.baseURI);
    this.#socketUrl.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    this.#eventsUrl = new URL(eventsPath, document.baseURI);
    this.#recovers = recovers;
    [this.#onMessage, this.#onStart, this.#onLoss, this.#onState] = [onMessage, onStart, onLoss, onState];
    addEventListener("online", this);
    this.#connect();
  }

  get state() {
    if (this.#socket.readyState === WebSocket.OPEN) return "open";
    if (this.#events?.readyState === EventSource.OPEN) return "receiving";
    if (this.endReason !== undefined) return "ended";
    return this.retryAt ? "waiting" : "connecting";
  }

  get isUp() { return this.state === "open" || this.state === "receiving"; }
  send(text) { this.#socket.send(text); }
  handleEvent() { if (this.retryAt) this.#connect(); } // online again: do not wait

  close() {
    this.#isClosed = true;
    removeEventListener("online", this);
    clearTimeout(this.#timer);
    this.#closeEvents();
    this.#socket.onopen = this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close();
  }

  #connect() {
    clearTimeout(this.#timer);
    this.retryAt = 0;
    const socket = this.#socket = new WebSocket(this.#resuming(this.#socketUrl, this.#recovers ? { envelope: 1 } : {}));
    let openedAt = Infinity;
    // A proxy that swallows the handshake would keep it pending for minutes.
    this.#timer = setTimeout(() => socket.close(), CONNECT_TIMEOUT_MS);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      clearTimeout(this.#timer);
      openedAt = now();
      this.#failures = 0;
      this.#closeEvents();
      this.#onUp();
    };
    socket.onmessage = ({ data }) => this.#recovers ? this.#onEnvelope(JSON.parse(data)) : this.#onMessage(contentOf(data));
    socket.onclose = ({ code, reason }) => {
      if (isFinal(code)) return this.#end(reason);
      if (openedAt === Infinity) {
        this.#failures += 1;
        if (this.#failures === 1 && !this.#hasBeenUp) this.#endIfRefused();
      }
      // Not at once when it opens: a node that accepts and then ends connections must not be asked twice a second.
      else if (now() - openedAt > STABLE_MS) this.#attempts = 0;
      this.#retryLater();
      this.#onState(this);
    };
    this.#onState(this);
  }

  /** End if the server refuses this client: a browser does not tell why a WebSocket did not open. */
  async #endIfRefused() {
    const request = new AbortController();
    const response = await fetch(this.#eventsUrl, { signal: request.signal }).catch(() => null);
    if (response?.ok) return request.abort();
    const error = (await response?.json().catch(() => null))?.error;
    if (REFUSALS.includes(error?.code) && !this.#isClosed && !this.isUp) this.#end(error.detail);
  }

  #end(reason) {
    this.close();
    this.endReason = reason;
    this.#onState(this);
  }

  /** Return a URL that recovers from the last position, if it is known. */
  #resuming(base, parameters) {
    const url = new URL(base);
    const since = this.#recovers && this.#position && { since: this.#position.offset, epoch: this.#position.epoch };
    url.search = new URLSearchParams({ ...parameters, ...since });
    return url;
  }

  #onUp() {
    // Without a position nothing is recovered, and no message says so.
    if (this.#hasBeenUp && this.#recovers && !this.#position) this.#onLoss();
    this.#hasBeenUp = true;
    this.#onState(this);
  }

  #onEnvelope({ offset, epoch, recovered, missed, ...content }) {
    if (recovered === false) return this.#onGap(epoch === undefined ? undefined : { offset, epoch });
    if (missed) return this.#onLoss();
    if (!["data", "text", "base64"].some((name) => name in content)) {
      // Joins and leaves have no position; where it is recovered, this page has been.
      if (epoch !== undefined && recovered === undefined) this.#onGap({ offset, epoch });
      return;
    }
    // While the WebSocket connects, server-sent events may already have brought what it recovers.
    if (epoch !== undefined && epoch === this.#position?.epoch && offset <= this.#position.offset) return;
    if (epoch !== undefined) this.#position = { offset, epoch };
    this.#onMessage(content);
  }

  /** Continue at a position: the first one, or after a loss. */
  #onGap(position) {
    const isFirst = position && !this.#position;
    this.#position = position ?? this.#position;
    if (isFirst) this.#onStart(position);
    else this.#onLoss();
  }

  #retryLater() {
    clearTimeout(this.#timer);
    // Full jitter: when a node ends, its clients must not all reconnect in the same moment.
    const delayMs = Math.random() * Math.min(LONGEST_RETRY_MS, FIRST_RETRY_MS * 2 ** this.#attempts);
    this.#attempts += 1;
    this.retryAt = now() + delayMs;
    this.#timer = setTimeout(() => this.#connect(), delayMs);
    // The WebSocket attempts continue beside it: after an outage of a node the page must be able to send again.
    if (this.#failures >= FAILURES_BEFORE_EVENTS && !this.#events) this.#openEvents();
  }

  #openEvents() {
    this.#events = new EventSource(this.#resuming(this.#eventsUrl, {}));
    this.#events.onmessage = ({ data, lastEventId }) => this.#onEvent(contentOf(data), lastEventId);
    this.#events.addEventListener("binary", ({ data, lastEventId }) => this.#onEvent({ base64: data }, lastEventId));
    this.#events.addEventListener("position", ({ data }) => this.#onEnvelope(JSON.parse(data)));
    this.#events.addEventListener("disconnect", ({ data }) => {
      const { code, reason } = JSON.parse(data);
      if (isFinal(code)) this.#end(reason);
    });
    this.#events.addEventListener("missed", ({ data }) => this.#onEnvelope({ missed: data }));
    this.#events.onopen = () => this.#onUp();
    // Its own reconnects know no backoff; the next failed WebSocket attempt opens another.
    this.#events.onerror = () => {
      this.#closeEvents();
      this.#onState(this);
    };
  }

  #onEvent(content, id) {
    const [epoch, offset] = id.split(":");
    // A message without a position has the id of the one before it (HTML Standard 9.2.6).
    const isRepeated = epoch === this.#position?.epoch && Number(offset) === this.#position.offset;
    this.#onEnvelope(offset && !isRepeated ? { ...content, epoch, offset: Number(offset) } : content);
  }

  #closeEvents() {
    this.#events?.close();
    this.#events = null;
  }
}
