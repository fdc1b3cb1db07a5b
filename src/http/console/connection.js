// Whether the gateway can be reached. The browser only knows whether there is a network, so after it says that there is
// none, and after a request broke, the gateway is asked, until it responds.

import { base } from "./upload.js";

/** In milliseconds, between two questions to a gateway that did not respond. */
const INTERVAL = 3000;
/** In milliseconds: a response that takes longer counts as none. */
const TIMEOUT = 5000;
/** A small file of the page: a proxy that publishes the page may not publish `/healthz`. */
const ASKED = new URL("console/icon.svg", base);

let lost = false;
let timer, asking;
let changed = () => {};

export const isLost = () => lost;

/** Calls `listener` whenever the connection is lost, or back. */
export function onConnection(listener) {
  changed = listener;
  addEventListener("offline", () => {
    set(true);
    // A gateway on the same machine can be reached without a network.
    check();
  });
  addEventListener("online", check);
  if (!navigator.onLine) check();
}

/** Asks the gateway; resolves to whether it responded. */
export function check() {
  asking ??= ask().finally(() => (asking = undefined));
  return asking;
}

async function ask() {
  clearTimeout(timer);
  const reached = await responds();
  set(!reached);
  if (!reached) timer = setTimeout(check, INTERVAL);
  return reached;
}

async function responds() {
  try {
    const signal = AbortSignal.timeout(TIMEOUT);
    const { ok, headers } = await fetch(ASKED, { cache: "no-store", signal });
    // The gateway's refusals have an id, too. The error page of a proxy in front of it has none.
    return ok || headers.has("x-request-id");
  } catch {
    return false;
  }
}

function set(now) {
  if (lost === now) return;
  lost = now;
  changed();
}
