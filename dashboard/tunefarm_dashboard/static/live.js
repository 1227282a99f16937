"use strict";
// Swaps sections as the dashboard sends them, and keeps "12 s ago" true in between.

const SILENCE_MS = 15000; // three ticks of the server
const REST_MS = 3000;
const lost = document.getElementById("dashboard-lost");
// What the dashboard's clock is ahead of ours.
let skew = Number(document.documentElement.dataset.now) - Date.now();
let source = null;
let following = "";
let heard = Date.now();
let resting = 0;

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

let pressed = null;

// Somebody types, presses a button of the mouse, or has a list or a dialog open, in there: it is
// swapped when they are done. A link that is replaced between press and release is not followed.
function isBusy(section) {
  const at = document.activeElement;
  const typing = section.contains(at) && at.matches("input:not([type=hidden]), select, textarea");
  const pressing = pressed !== null && section.contains(pressed);
  return typing || pressing || section.querySelector("dialog[open]") !== null;
}

const held = new Map();

function swap(topic, version, html) {
  const section = document.querySelector(`[data-topic="${CSS.escape(topic)}"]`);
  if (!section || section.dataset.version === version) return;
  if (isBusy(section)) {
    held.set(topic, [version, html]);
    return;
  }
  held.delete(topic);
  // Whoever is at a link by keyboard stays there.
  const focused = section.contains(document.activeElement) && document.activeElement.dataset.focus;
  const open = new Set([...section.querySelectorAll("details[open][data-focus]")].map((one) => one.dataset.focus));
  section.dataset.version = version;
  section.innerHTML = html; // rendered and escaped by the server
  for (const one of section.querySelectorAll("details[data-focus]")) one.open = open.has(one.dataset.focus);
  htmx.process(section);
  settle(section);
  if (!focused) return;
  const again = section.querySelector(`[data-focus="${CSS.escape(focused)}"]`);
  if (again) again.focus({ preventScroll: true });
  else if (section.tabIndex === 0) section.focus({ preventScroll: true });
}

// What has just been put on the page.
function settle(root) {
  showTimes(root);
  root.dispatchEvent(new CustomEvent("tunefarm:settle", { bubbles: true }));
}

function alive() {
  heard = Date.now();
  lost.hidden = true;
}

function topics() {
  const names = [...document.querySelectorAll("[data-topic]")].map((one) => one.dataset.topic);
  return [...new Set(names)].map((name) => `topic=${encodeURIComponent(name)}`).join("&");
}

function connect() {
  if (source) source.close();
  heard = Date.now();
  following = topics();
  source = new EventSource(`/events?${following}`);
  source.addEventListener("section", (message) => {
    alive();
    const { topic, version, html } = JSON.parse(message.data);
    swap(topic, version, html);
  });
  source.addEventListener("tick", (message) => {
    alive();
    skew = JSON.parse(message.data).now - Date.now();
  });
  source.addEventListener("error", () => {
    lost.hidden = false;
  });
}

// A stream that is refused does not say why: our session may have ended.
async function askWhether() {
  const answer = await fetch("/api/status").catch(() => null);
  if (answer && answer.status === 401) location.assign("/login?next=" + encodeURIComponent(location.pathname + location.search));
}

function swapHeld() {
  for (const [topic, [version, html]] of held) swap(topic, version, html);
}

document.addEventListener("focusout", () => setTimeout(swapHeld, 0));
document.addEventListener("pointerdown", (event) => {
  pressed = event.target;
});
// The click comes first.
for (const name of ["pointerup", "pointercancel"]) {
  document.addEventListener(name, () => setTimeout(() => {
    pressed = null;
    swapHeld();
  }, 0));
}

// A page that was changed by htmx shows other sections.
document.addEventListener("htmx:afterSettle", (event) => {
  settle(event.target);
  if (source && topics() !== following) connect();
});

showTimes(document);
setInterval(() => showTimes(document), 1000);
if (topics() && !("still" in document.body.dataset)) {
  connect();
  // A browser gives up on some failures, and does not notice a server that hangs.
  setInterval(() => {
    if (document.hidden) return;
    const closed = source.readyState === EventSource.CLOSED;
    const silent = Date.now() - heard > SILENCE_MS;
    if (silent) lost.hidden = false;
    if (closed) askWhether();
    if (closed || silent) connect();
  }, 2000);
}
// A browser opens few streams to one host: pages that nobody sees leave theirs to others.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) resting = setTimeout(() => source && source.close(), REST_MS);
  else {
    clearTimeout(resting);
    if (source && source.readyState === EventSource.CLOSED) connect();
  }
});
window.addEventListener("pagehide", () => source && source.close());
window.addEventListener("pageshow", (event) => event.persisted && source && connect());
