"use strict";
// Draws what stands in data-plot: {x, series: [{label, values, unit, digits, scale}], time, height,
// xlabel, log, whole}. A series may also have `points`, `steps`, `fill`, `dash` and the number of a `colour`.

const PALETTE = ["--series-1", "--series-2", "--series-3", "--series-4"];
const drawn = new Map();

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function shown(value, series) {
  return value == null ? "–" : `${value.toFixed(series.digits ?? 2)} ${series.unit ?? ""}`.trim();
}

const two = (number) => String(number).padStart(2, "0");

// Moments of the axis, in UTC as everywhere; the day where it changes.
function moments(_, splits) {
  let day = -1;
  return splits.map((seconds) => {
    const at = new Date(seconds * 1000);
    const clock = `${two(at.getUTCHours())}:${two(at.getUTCMinutes())}`;
    const fine = splits.length > 1 && splits[1] - splits[0] < 60 ? `:${two(at.getUTCSeconds())}` : "";
    const fresh = at.getUTCDate() !== day;
    day = at.getUTCDate();
    return clock + fine + (fresh ? `\n${at.toISOString().slice(0, 10)}` : "");
  });
}

function options(plot, width) {
  const scales = [...new Set(plot.series.map((one) => one.scale ?? "y"))];
  const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
  return {
    width,
    height: plot.height ?? 200,
    padding: [10, scales.length > 1 ? 4 : 30, 0, 0],
    scales: { x: { time: plot.time ?? true, distr: plot.log ? 3 : 1, ...(plot.whole ? { range: (_, low, high) => [low - 0.5, high + 0.5] } : {}) }, ...(plot.log ? { y: { distr: 3 } } : {}) },
    cursor: { drag: { x: true, y: false }, points: { size: 6 } },
    legend: { live: true },
    axes: [
      { ...axis, space: 76, incrs: plot.whole ? [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] : undefined, values: plot.time === false ? undefined : moments, label: plot.xlabel, labelSize: 20, labelFont: axis.font },
      ...scales.map((scale, index) => {
        const first = plot.series.find((one) => (one.scale ?? "y") === scale);
        return { ...axis, scale, side: index === 0 ? 3 : 1, grid: index === 0 ? axis.grid : { show: false }, size: 52,
                 label: first.unit, labelSize: 18, labelFont: axis.font, labelGap: 0 };
      }),
    ],
    series: [
      plot.time === false
        ? { label: plot.xlabel ?? "x" }
        : { label: "UTC", value: (_, at) => (at == null ? "–" : new Date(at * 1000).toISOString().slice(0, 19).replace("T", " ")) },
      ...plot.series.map((one, index) => ({
        label: one.label,
        scale: one.scale ?? "y",
        stroke: colour(PALETTE[(one.colour ?? index) % PALETTE.length]),
        width: one.points ? 0 : 1.5,
        dash: one.dash ? [5, 4] : undefined,
        fill: one.fill ? `${colour(PALETTE[(one.colour ?? index) % PALETTE.length])}33` : undefined,
        paths: one.steps ? uPlot.paths.stepped({ align: 1 }) : undefined,
        points: { show: one.points ?? plot.x.length < 40, size: 5, fill: colour(PALETTE[(one.colour ?? index) % PALETTE.length]) },
        spanGaps: true,
        value: (_, value) => shown(value, one),
      })),
    ],
  };
}

function draw(element) {
  const plot = JSON.parse(element.dataset.plot);
  const width = Math.floor(element.clientWidth);
  const old = drawn.get(element);
  if (old) old.destroy();
  drawn.delete(element);
  if (!width || !plot.x.length) return;
  drawn.set(element, new uPlot(options(plot, width), [plot.x, ...plot.series.map((one) => one.values)], element));
}

function drawAll(root) {
  for (const [element, chart] of drawn) {
    if (!element.isConnected) {
      chart.destroy();
      drawn.delete(element);
    }
  }
  for (const element of root.querySelectorAll("[data-plot]")) draw(element);
}

let width = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth === width) return;
  width = window.innerWidth;
  drawAll(document);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll(document));
document.addEventListener("tunefarm:settle", (event) => drawAll(event.target));
drawAll(document);
