// The live chart: LAS with its interval above, traffic below, over one axis of time.

import { byId, element, say } from "./dom.js";

// Distinct also for colour-blind readers.
const ON_LIGHT = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#555555"];
const ON_DARK = ["#56b4e9", "#e69f00", "#2ec79b", "#e79bc6", "#f0e442", "#bbbbbb"];
const FEW_POINTS = 2;
const SHORTEST_MS = 60_000;
const LAS_RANGE = [-1, 1];

const dark = matchMedia("(prefers-color-scheme: dark)");
let latest = null;
let loading = null;

dark.addEventListener("change", () => latest && drawChart(...latest));

export async function drawChart(history, alarmBelow) {
  latest = [history, alarmBelow];
  try {
    await (loading ??= load());
  } catch {
    say("chart-note", "The chart's library could not be loaded; the figures above are live all the same.");
    return;
  }
  const config = { displayModeBar: false, responsive: true };
  await globalThis.Plotly.react(byId("chart"), traces(history, alarmBelow), layout(history), config);
}

// Plotly is large: the rest of the page does not wait for it.
function load() {
  return new Promise((resolve, reject) => {
    document.head.append(element("script", { src: "page/plotly.min.js", onload: resolve, onerror: reject }));
  });
}

function traces(history, alarmBelow) {
  const colours = dark.matches ? ON_DARK : ON_LIGHT;
  const versions = [...history].flatMap(([name, points], index) => {
    const colour = colours[index % colours.length];
    return [band(name, points, colour), lasLine(name, points, colour), traffic(name, points, colour)];
  });
  return alarmBelow == null ? versions : [...versions, alarmLine(history, alarmBelow)];
}

const time = (point) => new Date(point.at);

// A polygon per unbroken run of intervals; null keeps the runs apart.
function band(name, points, colour) {
  const x = [];
  const y = [];
  for (const run of runs(points)) {
    const back = run.toReversed();
    x.push(...run.map(time), ...back.map(time), null);
    y.push(...run.map((point) => point.ci95[1]), ...back.map((point) => point.ci95[0]), null);
  }
  const fill = { fill: "toself", fillcolor: `${colour}33`, line: { width: 0 }, mode: "lines" };
  return { ...fill, x, y, name, legendgroup: name, showlegend: false, hoverinfo: "skip" };
}

function runs(points) {
  const found = [[]];
  for (const point of points) {
    if (point.ci95) found.at(-1).push(point);
    else if (found.at(-1).length) found.push([]);
  }
  return found.filter((run) => run.length);
}

function lasLine(name, points, colour) {
  return { ...line(name, points, colour), y: points.map((point) => point.las), hovertemplate: "LAS %{y:.3f}" };
}

function traffic(name, points, colour) {
  const y = points.map((point) => point.rate);
  const hovertemplate = "%{y:.0f} answers in the last minute";
  return { ...line(name, points, colour), y, yaxis: "y2", showlegend: false, hovertemplate };
}

function line(name, points, colour) {
  const mode = points.length < FEW_POINTS ? "markers" : "lines";
  return { name, legendgroup: name, x: points.map(time), mode, line: { color: colour, width: 2 }, marker: { color: colour } };
}

function alarmLine(history, alarmBelow) {
  const look = { mode: "lines", line: { color: colourOf("--bad"), width: 1.5, dash: "dash" } };
  return { ...look, x: span(history), y: [alarmBelow, alarmBelow], name: `alarm below ${alarmBelow}`, hoverinfo: "name" };
}

// From the first point to the last, and SHORTEST_MS at least.
function span(history) {
  const times = [...history.values()].flat().map((point) => point.at);
  const last = Math.max(...times);
  return [new Date(Math.min(...times, last - SHORTEST_MS)), new Date(last)];
}

const colourOf = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function layout(history) {
  const range = span(history);
  const hasLas = [...history.values()].flat().some((point) => point.las != null);
  // Without a figure Plotly would show places where no LAS can be.
  const lasRange = hasLas ? { autorange: true } : { range: LAS_RANGE };
  const axis = { gridcolor: colourOf("--line"), zerolinecolor: colourOf("--soft"), fixedrange: true, automargin: true };
  return {
    font: { color: colourOf("--ink"), family: "system-ui, sans-serif", size: 13 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    margin: { t: 8, r: 8, b: 36, l: 52 },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
    hovermode: "x",
    dragmode: false,
    showlegend: true,
    xaxis: { ...axis, anchor: "y2", type: "date", range, zeroline: false },
    yaxis: { ...axis, ...lasRange, domain: [0.42, 1], title: { text: "LAS" } },
    yaxis2: { ...axis, domain: [0, 0.3], title: { text: "answers/min" }, rangemode: "tozero" },
  };
}
