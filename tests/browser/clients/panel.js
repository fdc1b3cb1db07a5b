// What every client's page has: which gateway it was told to use, its user's ticket, and where what its user is told
// can be read.

const asked = new URLSearchParams(location.search);

export const gateway = asked.get("gateway");
export const ticket = asked.get("ticket");
/** Bytes of a chunk, where the client is to cut files into chunks. */
export const chunkSize = Number(asked.get("chunk"));

/** Adds an element for the client to live in: `<div id="editor">`. */
export function add(tag, attributes = {}) {
  const element = Object.assign(document.createElement(tag), attributes);
  document.body.append(element);
  return element;
}

/** Shows the image at an address that the gateway returned. */
export const showImage = (src) => add("img", { id: "stored", src });

/** Shows what a client says of a failure. */
export const showError = (textContent) => add("p", { id: "error", textContent });

/** What a failed response says to a person: the gateway's words, or the status where something else responded. */
export function reason(text, status) {
  try {
    const { detail, message } = JSON.parse(text);
    return detail ?? message;
  } catch {
    return `Upload failed (${status || "no connection"})`;
  }
}

/** Loads a script that makes a global of itself, such as `/node_modules/…`. */
export const load = (src) => new Promise((resolve) => add("script", { src }).addEventListener("load", resolve));

// What clients say in a dialog stays on the page.
window.alert = showError;
