// The page: adds chosen, dropped and pasted files to the queue, and shows the queue's items.

import { isLost, onConnection } from "./connection.js";
import { showFigures } from "./figures.js";
import { askForFile, onFiles } from "./file_input.js";
import { savedFinished, saveFinished } from "./finished.js";
import { fold } from "./folds.js";
import { acceptedTypes, areKnown, askForLimits, environmentName, limitsText } from "./limits.js";
import { problemTexts } from "./problems.js";
import { Queue, isRetriable } from "./queue.js";
import { profiles } from "./response.js";
import { Row } from "./row.js";
import { showSnippets } from "./snippets.js";
import { restore } from "./unfinished.js";
import { language, setLanguage, text, translate } from "./words.js";

const element = (id) => document.getElementById(id);

// There is no drag and drop by touch.
if (matchMedia("(pointer: coarse)").matches) {
  document.querySelector("#drop .lead").dataset.t = "tap";
  document.querySelector("#drop .hint").dataset.t = "tap_hint";
}
fold(document);

// The settings of the next upload, stored while the tab is open.
const fields = ["key", "dir", "profile"].map(element);
element("profile").append(...profiles.map((name) => new Option(name)));
for (const field of fields) field.value = sessionStorage.getItem(field.id) ?? (field.id === "profile" ? "default" : "");
const request = () => ({
  key: element("key").value.trim(),
  dir: element("dir").value.trim(),
  profile: element("profile").value,
});

const rows = new Map();
/** While the list is that of before a reload, its items are not announced. */
let isRestoring = false;
const queue = new Queue(request, changed);
const redraw = showSnippets(() => ({ ...request(), name: queue.items.at(-1)?.file.name }));
element("settings").addEventListener("submit", (event) => event.preventDefault());
element("settings").addEventListener("input", ({ target }) => {
  sessionStorage.setItem(target.id, target.value);
  redraw();
});
element("key").addEventListener("change", showLimits);

async function showLimits() {
  await askForLimits(request().key);
  drawLimits();
  rows.forEach((row) => row.redraw());
  summarize();
}

function drawLimits() {
  element("limits").textContent = limitsText(request().key) ?? "";
  element("chooser").accept = acceptedTypes();
  element("badge").textContent = environmentName() ?? "";
  element("badge").hidden = !environmentName();
}

onConnection(() => {
  drawConnection();
  rows.forEach((row) => row.draw());
  if (isLost()) return;
  queue.continueAll();
  if (!areKnown()) showLimits();
});

function drawConnection() {
  const lost = navigator.onLine ? "gateway_lost" : "network_lost";
  element("connection").textContent = isLost() ? text(lost) : "";
}

element("language").append(new Option("English", "en"), new Option("中文", "zh"));
element("language").addEventListener("change", async ({ target }) => {
  // Without a connection, the texts of the other language may be missing.
  await setLanguage(target.value).catch(() => {});
  drawTexts();
});

/** Draws the page in its language. */
function drawTexts() {
  element("language").value = document.documentElement.lang = language;
  document.title = text("title");
  translate(document);
  rows.forEach((row) => row.translate());
  rows.forEach((row) => row.redraw());
  drawLimits();
  drawConnection();
  summarize();
  redraw();
}

onFiles((files) => {
  files.forEach((file) => queue.add(file));
  const onlyRow = queue.items.length === 1 && rows.get(queue.items[0]);
  if (onlyRow) onlyRow.element.querySelector(".response").open = matchMedia("(min-width: 30.01rem)").matches;
  redraw();
});

const ANNOUNCED = ["stored", "failed", "undoable", "deleted", "reconnecting", "unfinished"];

function changed(item) {
  let row = rows.get(item);
  if (!row) {
    row = new Row(item, (name) => actions[name](item));
    rows.set(item, row);
    // The newest first, so that on a phone a file is visible once it is chosen.
    element("queue").prepend(row.element);
  }
  const isNew = row.element.dataset.state !== item.state;
  row.draw();
  // The items with a URL of their own are not among those that are saved.
  if (row.url !== item.url) saveFinished(queue.items);
  row.url = item.url;
  if (!isNew) return;
  if (ANNOUNCED.includes(item.state) && !isRestoring) {
    const what = item.problem ? problemTexts(item.problem).title : row.stateText();
    element("announcements").textContent = text("announce", item.file.name, what);
  }
  summarize();
  saveFinished(queue.items);
}

const actions = {
  pause: (item) => withFocus(item, () => queue.pause(item), "resume"),
  resume: (item) => withFocus(item, () => queue.resume(item), "pause"),
  file: (item) => askForFile((file) => withFocus(item, () => queue.continue(item, file), "file")),
  cancel: (item) => withFocus(item, () => queue.cancel(item)),
  retry: (item) => withFocus(item, () => queue.retry(item)),
  delete: (item) => withFocus(item, () => queue.delete(item), "undo"),
  undo: (item) => withFocus(item, () => queue.undoDelete(item), "delete"),
  key: () => element("key").focus(),
  remove: removeWithFocus,
  discard: removeWithFocus,
};

/** Runs `action`, which hides the pressed button, and moves the focus for users of the keyboard: to the button `next`,
 * or to the file's name. */
function withFocus(item, action, next) {
  action();
  const row = rows.get(item).element;
  (row.querySelector(`[data-do=${next}]:not([hidden])`) ?? row.querySelector(".name")).focus();
}

function removeWithFocus(item) {
  const row = rows.get(item).element;
  const neighbour = row.nextElementSibling ?? row.previousElementSibling;
  remove(item);
  (neighbour?.querySelector(".name") ?? element("choose")).focus();
}

function remove(item) {
  queue.remove(item);
  rows.get(item).element.remove();
  rows.delete(item);
  summarize();
  saveFinished(queue.items);
}

function summarize() {
  const all = queue.items.length;
  element("files").classList.toggle("busy", all > 0);
  element("summary").hidden = all === 0;
  const numbers = {
    files: all,
    running: queue.running.length,
    waiting: queue.inState("waiting").length,
    paused: queue.inState("paused").length,
    unfinished: queue.inState("unfinished").length,
    stored: queue.inState("stored", "undoable", "deleting").length,
    failed: queue.inState("failed").length,
  };
  const counted = Object.entries(numbers).filter(([, number]) => number);
  const texts = counted.map(([name, number]) => text(`counts_${name}`, number));
  element("counts").textContent = texts.join(" · ");
  element("cancel-all").hidden = numbers.running + numbers.waiting + numbers.paused < 2;
  element("retry-failed").hidden = failedRetriable().length < 2;
  element("clear").hidden = queue.finished.length < 2;
}

element("cancel-all").addEventListener("click", () => {
  // Waiting uploads first: otherwise each would start when a running one is cancelled.
  [...queue.inState("waiting", "paused"), ...queue.running].forEach((item) => queue.cancel(item));
  element("choose").focus();
});
const failedRetriable = () => queue.inState("failed").filter(isRetriable);
element("retry-failed").addEventListener("click", () => failedRetriable().forEach((item) => queue.retry(item)));
element("clear").addEventListener("click", () => {
  queue.finished.forEach(remove);
  element("choose").focus();
});

// Updates speed and time left while no data is sent, too.
setInterval(() => queue.running.forEach((item) => rows.get(item).draw()), 500);
addEventListener("beforeunload", (event) => {
  if (queue.running.length) event.preventDefault();
});

drawTexts();
isRestoring = true;
queue.addFinished(savedFinished());
isRestoring = false;
restore((upload) => queue.addUnfinished(upload));
showLimits();
showFigures();
