// The page: what is chosen, dropped or pasted goes into the queue, and the queue's items onto the page.

import { watch } from "./figures.js";
import { listen } from "./intake.js";
import { Queue } from "./queue.js";
import { profiles } from "./reply.js";
import { Row } from "./row.js";
import { show } from "./snippets.js";
import { language, say, translate } from "./words.js";

const element = (id) => document.getElementById(id);

document.documentElement.lang = language;
document.title = say("title");
// A finger drops nothing.
if (matchMedia("(pointer: coarse)").matches) {
  document.querySelector("#drop .lead").dataset.t = "tap";
  document.querySelector("#drop .hint").dataset.t = "tap_hint";
}
translate(document);

// What the next upload is sent with, kept while the tab is open.
const fields = ["key", "dir", "profile"].map(element);
element("profile").append(...profiles.map((name) => new Option(name)));
for (const field of fields) field.value = sessionStorage.getItem(field.id) ?? (field.id === "profile" ? "default" : "");
const request = () => ({
  key: element("key").value.trim(),
  dir: element("dir").value.trim(),
  profile: element("profile").value,
});

const rows = new Map();
const queue = new Queue(request, changed);
const redraw = show(() => ({ ...request(), name: queue.items.at(-1)?.file.name }));
element("settings").addEventListener("submit", (event) => event.preventDefault());
element("settings").addEventListener("input", ({ target }) => {
  sessionStorage.setItem(target.id, target.value);
  redraw();
});

listen((files) => {
  files.forEach((file) => queue.add(file));
  const alone = queue.items.length === 1 && rows.get(queue.items[0]);
  if (alone) alone.element.querySelector("details").open = true;
  redraw();
});

function changed(item) {
  let row = rows.get(item);
  if (!row) {
    row = new Row(item, (name) => act[name](item));
    rows.set(item, row);
    // The newest on top: on a phone what was just chosen must be in sight.
    element("queue").prepend(row.element);
  }
  if (["stored", "failed", "deleted"].includes(item.state) && row.element.dataset.state !== item.state) {
    element("news").textContent = say("announce", item.file.name, item.problem?.title ?? say(item.state));
  }
  row.draw();
  summarize();
}

const act = {
  cancel: (item) => leave(item, () => queue.cancel(item)),
  retry: (item) => leave(item, () => queue.retry(item)),
  delete: (item) => leave(item, () => queue.delete(item)),
  key: () => element("key").focus(),
  remove: (item) => {
    const near = rows.get(item).element;
    const next = near.nextElementSibling ?? near.previousElementSibling;
    forget(item);
    (next?.querySelector(".name") ?? element("choose")).focus();
  },
};

/** The button that was pressed goes away; whoever steers by keyboard stays at the file. */
function leave(item, action) {
  action();
  rows.get(item).element.querySelector(".name").focus();
}

function forget(item) {
  queue.forget(item);
  rows.get(item).element.remove();
  rows.delete(item);
  summarize();
}

function summarize() {
  const all = queue.items.length;
  element("files").classList.toggle("busy", all > 0);
  element("summary").hidden = all === 0;
  const numbers = {
    files: all,
    running: queue.running.length,
    waiting: queue.is("waiting").length,
    stored: queue.is("stored", "deleting").length,
    failed: queue.is("failed").length,
  };
  const said = Object.entries(numbers).filter(([, number]) => number).map(([name, number]) => say(`counts_${name}`, number));
  element("counts").textContent = said.join(" · ");
  element("cancel-all").hidden = numbers.running + numbers.waiting < 2;
  element("retry-failed").hidden = numbers.failed < 2;
  element("clear").hidden = queue.over.length < 2;
}

element("cancel-all").addEventListener("click", () => {
  // Those that wait first, or each would start as its predecessor ends.
  [...queue.is("waiting"), ...queue.running].forEach((item) => queue.cancel(item));
  element("choose").focus();
});
element("retry-failed").addEventListener("click", () => queue.is("failed").forEach((item) => queue.retry(item)));
element("clear").addEventListener("click", () => {
  queue.over.forEach(forget);
  element("choose").focus();
});

// Speed and time left go on while no byte moves.
setInterval(() => queue.running.forEach((item) => rows.get(item).draw()), 500);
addEventListener("beforeunload", (event) => {
  if (queue.running.length) event.preventDefault();
});
watch();
