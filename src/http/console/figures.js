// The live figures in the page's header, from the gateway's /metrics. A missing figure is shown as a dash.

import { base } from "./upload.js";
import { count, duration, rate } from "./words.js";

/** In milliseconds. */
const INTERVAL = 2000;
/** The interval while the metrics are unavailable. */
const RETRY_INTERVAL = 15_000;
/** The period over which throughput is averaged. */
const WINDOW = 10_000;

const samples = [];

/** Starts to update the figures, while the page is visible. */
export function showFigures() {
  const update = async () => {
    let interval = INTERVAL;
    if (!document.hidden) {
      const text = await metrics();
      draw(text ?? "");
      if (text === undefined) interval = RETRY_INTERVAL;
    }
    setTimeout(update, interval);
  };
  update();
}

async function metrics() {
  try {
    const response = await fetch(new URL("metrics", base));
    return response.ok ? await response.text() : undefined;
  } catch {
    return undefined;
  }
}

function draw(text) {
  const bytes = sum(text, "gateway_upload_bytes_total");
  const inFlight = sum(text, "gateway_uploads_in_flight");
  show("in_flight", inFlight, count);
  // The metric counts a file's bytes once it is stored, so 0 is not the throughput while an upload is running.
  const speed = throughput(bytes);
  show("throughput", speed === 0 && inFlight ? undefined : speed, rate);
  // Labelled by cause, so the metric is missing before the first replay.
  show("replays", sum(text, "gateway_replays_total") ?? (inFlight === undefined ? undefined : 0), count);
  show("token_age", sum(text, "gateway_token_age_seconds"), duration);
}

function show(name, value, format) {
  const shown = value === undefined ? "–" : format(value);
  document.querySelector(`[data-figure=${name}]`).textContent = shown;
}

/** Bytes per second over the last `WINDOW`. */
function throughput(bytes) {
  if (bytes === undefined) return undefined;
  const now = performance.now();
  samples.push([now, bytes]);
  while (samples.length > 2 && samples[1][0] <= now - WINDOW) samples.shift();
  const [then, before] = samples[0];
  return now === then ? 0 : Math.max(0, (1000 * (bytes - before)) / (now - then));
}

/** The sum of the metric `name` over all labels; undefined if it is missing. */
function sum(text, name) {
  const values = text
    .split("\n")
    .filter((line) => line.startsWith(`${name} `) || line.startsWith(`${name}{`))
    .map((line) => Number(line.slice(line.lastIndexOf(" "))));
  const finite = values.filter(Number.isFinite);
  return finite.length ? finite.reduce((one, other) => one + other, 0) : undefined;
}
