import { Feed, now } from "./feed.js";

const KEPT_SAMPLES = 60;

const $ = (id) => document.getElementById(id);

const METRICS = [
  { key: "active_users", label: "Connections", unit: "", note: "two per open page: chat and dashboard" },
  { key: "nodes", label: "Nodes", unit: "" },
  { key: "response_time", label: "Response", unit: "ms" },
  { key: "cpu_usage", label: "CPU", unit: "%", top: 100 },
  { key: "memory_usage", label: "Memory", unit: "%", top: 100 },
];
const samples = [];
let lastSampleAt = 0;

for (const metric of METRICS) {
  const tile = $("tile").content.cloneNode(true);
  tile.querySelector("dt").textContent = metric.label;
  tile.querySelector(".unit").textContent = metric.unit;
  metric.part = (name) => $("tiles").children[METRICS.indexOf(metric)].querySelector(`.${name}`);
  $("tiles").append(tile);
}

function onSample({ data: sample }) {
  if (typeof sample !== "object" || sample === null) return;
  if (!Number.isFinite(sample.time)) sample.time = Date.now(); // not from our worker, but welcome
  if (sample.time === samples.at(-1)?.time) return; // a node sends the newest again after a reconnect
  lastSampleAt = now();
  samples.push(sample);
  if (samples.length > KEPT_SAMPLES) samples.shift();
  METRICS.forEach(showMetric);
  showSource();
}

function formatted(value) {
  return value.toLocaleString([], { maximumFractionDigits: value < 10 ? 2 : value < 100 ? 1 : 0 });
}

function showMetric({ key, unit, top, note, part }) {
  const values = samples.map((sample) => sample[key]).filter(Number.isFinite);
  const value = samples.at(-1)[key];
  part("value").textContent = Number.isFinite(value) ? formatted(value) : "–";
  if (values.length === 0) return;
  const peak = Math.max(...values);
  part("note").textContent = note ?? `peak ${formatted(peak)} ${unit}`;
  const scale = 20 / (top ?? (peak * 1.25 || 1));
  const left = KEPT_SAMPLES - values.length;
  const points = values.map((each, index) => `${left + index} ${(20 - each * scale).toFixed(2)}`).join("L");
  part("line").setAttribute("d", `M${points}`);
  part("area").setAttribute("d", `M${left} 20L${points}L${KEPT_SAMPLES - 1} 20Z`);
}

/** Return the median time between samples, by the worker's clock: what was held up arrives in a burst. */
function intervalMs() {
  const live = samples.slice(1).slice(-9); // the first was kept from when a page was last open
  const gaps = live.map((sample, index, all) => sample.time - all[index - 1]?.time).slice(1);
  return gaps.sort((one, other) => one - other)[gaps.length >> 1] ?? 2000;
}

function showSource() {
  const silentMs = now() - lastSampleAt;
  const isStale = samples.length === 0 || silentMs > 3 * intervalMs();
  $("system").classList.toggle("stale", isStale);
  $("source").textContent = sourceText(isStale, silentMs);
}

function sourceText(isStale, silentMs) {
  if (samples.length === 0) return dashboard.isUp ? "No data yet: is the metrics worker running?" : "Waiting for the connection";
  const { time, worker } = samples.at(-1);
  if (isStale) return `No sample for ${Math.floor(silentMs / 1000)} s; the last is from ${new Date(time).toLocaleTimeString()}`;
  const every = samples.length > 2 ? `, every ${formatted(Math.round(intervalMs() / 100) / 10)} s` : "";
  return `from worker ${worker ?? "without a name"}${every}`;
}

const dashboard = new Feed("dashboard-feed", "sse/dashboard-feed", { onMessage: onSample });
setInterval(showSource, 1000);
