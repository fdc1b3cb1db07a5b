// The strip of live figures, from the gateway's own /metrics. A figure that is not there is a dash.

import { base } from "./upload.js";
import { count, duration, rate } from "./words.js";

const EVERY = 2000;
/** Where there are no metrics to be had, they are asked for less often. */
const PATIENCE = 15_000;
/** Throughput is that of the last seconds. */
const SPAN = 10_000;

const past = [];

/** Begins to ask, for as long as the page is looked at. */
export function watch() {
  const ask = async () => {
    let pause = EVERY;
    if (!document.hidden) {
      const text = await metrics();
      draw(text ?? "");
      if (text === undefined) pause = PATIENCE;
    }
    setTimeout(ask, pause);
  };
  ask();
}

async function metrics() {
  try {
    const reply = await fetch(new URL("metrics", base));
    return reply.ok ? await reply.text() : undefined;
  } catch {
    return undefined;
  }
}

function draw(text) {
  const bytes = sum(text, "gateway_upload_bytes_total");
  const inFlight = sum(text, "gateway_uploads_in_flight");
  show("in_flight", inFlight, count);
  // Bytes count when their file is stored: while one is on its way, nothing is not the speed.
  const speed = throughput(bytes);
  show("throughput", speed === 0 && inFlight ? undefined : speed, rate);
  // By cause, and so not there before the first.
  show("replays", sum(text, "gateway_replays_total") ?? (inFlight === undefined ? undefined : 0), count);
  show("token_age", sum(text, "gateway_token_age_seconds"), duration);
}

function show(name, value, form) {
  const shown = value === undefined ? "–" : form(value);
  document.querySelector(`[data-figure=${name}]`).textContent = shown;
}

/** Bytes a second since some seconds ago. */
function throughput(bytes) {
  if (bytes === undefined) return undefined;
  const now = performance.now();
  past.push([now, bytes]);
  while (past.length > 2 && past[1][0] <= now - SPAN) past.shift();
  const [then, before] = past[0];
  return now === then ? 0 : Math.max(0, (1000 * (bytes - before)) / (now - then));
}

/** The sum over all labels of the metric called `name`; nothing where there is none. */
function sum(text, name) {
  const values = text
    .split("\n")
    .filter((line) => line.startsWith(`${name} `) || line.startsWith(`${name}{`))
    .map((line) => Number(line.slice(line.lastIndexOf(" "))));
  const finite = values.filter(Number.isFinite);
  return finite.length ? finite.reduce((one, other) => one + other, 0) : undefined;
}
