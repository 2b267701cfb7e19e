// Watches LAS and traffic of every version: the figures as text, the history as a chart.

import { get, KEY_NEEDED } from "./api.js";
import { drawChart } from "./chart.js";
import { byId, decimal, element, percent, say } from "./dom.js";

const EVERY_MS = 2000;
const SLOWEST_MS = 60_000;
const KEPT_MS = 30 * 60_000;
const MINUTE_MS = 60_000;

// Points of one version, oldest first: {at, las, ci95, answered, rate}.
const history = new Map();
let everyMs = EVERY_MS;
let timer = 0;
let isPolling = false;
let needsKey = false;

export function startWatching() {
  document.addEventListener("visibilitychange", () => document.hidden || poll());
  document.addEventListener(KEY_NEEDED, () => (needsKey = true));
  return { refresh };
}

function refresh() {
  needsKey = false;
  poll();
}

async function poll() {
  if (isPolling || needsKey) return;
  clearTimeout(timer);
  isPolling = true;
  let waitMs = everyMs;
  try {
    show(await get("v1/las/live"));
  } catch (failure) {
    waitMs = waitAfter(failure);
  }
  isPolling = false;
  if (!document.hidden && !needsKey) timer = setTimeout(poll, waitMs);
}

function waitAfter(failure) {
  // A key has so many requests a minute, and questions come first.
  if (failure.status === 429) everyMs = Math.min(2 * everyMs, SLOWEST_MS);
  const next = failure.status === 401 ? "" : " These figures are not up to date; trying again.";
  say("live-note", failure.message + next);
  return Math.max(everyMs, 1000 * failure.retryAfterS);
}

function show(live) {
  const at = Date.now();
  for (const [name, version] of Object.entries(live.versions)) remember(name, version, at);
  say("live-note", [...alarms(live), ...staleSentences(live)].join(" "));
  const figures = Object.entries(live.versions).map(([name, version]) => card(name, version));
  byId("versions").replaceChildren(...figures);
  drawChart(history, live.alarm_below);
}

function remember(name, { las, ci95, answered }, at) {
  const points = (history.get(name) ?? []).filter((point) => point.at > at - KEPT_MS);
  points.push({ at, las, ci95, answered });
  points.at(-1).rate = answersInLastMinute(points);
  history.set(name, points);
}

function answersInLastMinute(points) {
  const from = points.at(-1).at - MINUTE_MS;
  let sum = 0;
  for (let index = points.length - 1; index > 0 && points[index].at > from; index--) {
    const [before, after] = [points[index - 1], points[index]];
    // The count begins anew with the service's process.
    const increase = after.answered < before.answered ? after.answered : after.answered - before.answered;
    // After a pause in watching, only the part of the pause within the last minute counts.
    const within = (after.at - Math.max(before.at, from)) / (after.at - before.at);
    sum += increase * within;
  }
  return sum;
}

function alarms({ versions, alarm_below }) {
  const names = Object.keys(versions).filter((name) => versions[name].alarm);
  return names.map((name) => `Alarm: LAS of ${name} is below ${alarm_below}.`);
}

function staleSentences({ versions }) {
  const stale = Object.entries(versions).filter(([, version]) => version.stale);
  return stale.map(([name, { stale_since }]) => {
    const since = new Date(1000 * stale_since).toLocaleTimeString();
    return `The simulator of ${name} has not answered since ${since}; LAS is from before.`;
  });
}

function card(name, version) {
  const figures = [
    ["LAS", decimal(version.las), interval(version.ci95)],
    ["Simulation gain", decimal(version.sim_gain), interval(version.sim_gain_ci95)],
    ["Leak rate", percent(version.leak_rate), `${version.num_leaking} leaking`],
    ["Answers given", String(version.answered), "since the start"],
    ["In the window", String(version.rows), "answers simulated"],
    ["Missed", String(version.missed), "not simulated"],
  ];
  const list = element("dl", {}, ...figures.map(([term, value, detail]) => figure(term, value, detail)));
  const lead = version.las == null ? "No LAS yet" : "Caution";
  const note = element("p", { className: "soft" }, version.reason ? `${lead}: ${version.reason}.` : "");
  return element("article", {}, element("h3", {}, name), list, note);
}

function figure(term, value, detail) {
  const small = element("dd", { className: "soft" }, detail);
  return element("div", {}, element("dt", {}, term), element("dd", { className: "value" }, value), small);
}

const interval = (ci) => (ci ? `95 %: ${decimal(ci[0])} to ${decimal(ci[1])}` : "no interval");
