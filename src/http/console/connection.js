// Whether the gateway can be reached. The browser only knows whether there is a network, so after it says that there is
// none, and after a request broke, the gateway is asked, until it responds.

import { base } from "./upload.js";

/** In milliseconds, between two questions to a gateway that did not respond. */
const INTERVAL = 3000;
/** In milliseconds: a response that takes longer counts as none. */
const TIMEOUT = 5000;

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
    return (await fetch(new URL("healthz", base), { cache: "no-store", signal })).ok;
  } catch {
    return false;
  }
}

function set(now) {
  if (lost === now) return;
  lost = now;
  changed();
}
