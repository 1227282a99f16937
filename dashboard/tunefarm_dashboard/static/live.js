"use strict";
// Swaps sections as the dashboard sends them, and keeps "12 s ago" true in between.

const SILENCE_MS = 15000; // three ticks of the server
const events = document.body.dataset.events;
const lost = document.getElementById("dashboard-lost");
// What the dashboard's clock is ahead of ours.
let skew = Number(document.documentElement.dataset.now) - Date.now();
let source = null;
let heard = Date.now();

const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

function relative(seconds) {
  const size = Math.abs(seconds);
  const [unit, name] = UNITS.find(([length]) => size >= length) || [1, "s"];
  const text = `${Math.floor(size / unit)} ${name}`;
  return seconds < 0 ? `in ${text}` : `${text} ago`;
}

function showTimes(root) {
  const now = Date.now() + skew;
  for (const element of root.querySelectorAll("time[datetime]")) {
    const then = Date.parse(element.dateTime);
    const text = relative(Math.round((now - then) / 1000));
    if (!Number.isNaN(then) && element.textContent !== text) element.textContent = text;
  }
}

function swap(name, html) {
  const section = document.querySelector(`[data-section="${CSS.escape(name)}"]`);
  if (!section) return;
  // Whoever is at a link by keyboard stays there.
  const focused = section.contains(document.activeElement) && document.activeElement.dataset.focus;
  section.innerHTML = html; // rendered and escaped by the server
  showTimes(section);
  if (!focused) return;
  const again = section.querySelector(`[data-focus="${CSS.escape(focused)}"]`);
  (again || section).focus({ preventScroll: true });
}

function alive() {
  heard = Date.now();
  lost.hidden = true;
}

function connect() {
  if (source) source.close();
  heard = Date.now();
  source = new EventSource(events);
  source.addEventListener("section", (message) => {
    alive();
    const { section, html } = JSON.parse(message.data);
    swap(section, html);
  });
  source.addEventListener("tick", (message) => {
    alive();
    skew = JSON.parse(message.data).now - Date.now();
  });
  source.addEventListener("error", () => {
    lost.hidden = false;
  });
}

showTimes(document);
setInterval(() => showTimes(document), 1000);
if (events) {
  connect();
  // A browser gives up on some failures, and does not notice a server that hangs.
  setInterval(() => {
    const closed = source.readyState === EventSource.CLOSED;
    const silent = Date.now() - heard > SILENCE_MS;
    if (silent) lost.hidden = false;
    if (closed || silent) connect();
  }, 2000);
}
