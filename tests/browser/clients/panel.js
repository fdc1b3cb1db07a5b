// Shared by every client's page: the gateway's URL, the user's ticket, and the elements that show results and failures.

const asked = new URLSearchParams(location.search);

export const gateway = asked.get("gateway");
export const ticket = asked.get("ticket");
/** As a page does that asks its back end for tickets; a test sets the new one. */
export const getTicket = async () => window.newTicket ?? ticket;
/** The chunk size in bytes, for clients that split files into chunks. */
export const chunkSize = Number(asked.get("chunk"));

/** Adds the client's element, such as `<div id="editor">`. */
export function add(tag, attributes = {}) {
  const element = Object.assign(document.createElement(tag), attributes);
  document.body.append(element);
  return element;
}

/** Shows the image at a URL that the gateway returned. */
export const showImage = (src) => add("img", { id: "stored", src });

/** Shows a client's error text. */
export const showError = (textContent) => add("p", { id: "error", textContent });

/** A failed response as text for the user: the gateway's `detail`, or the status if something else responded. */
export function reason(text, status) {
  try {
    const { detail, message } = JSON.parse(text);
    return detail ?? message;
  } catch {
    return `Upload failed (${status || "no connection"})`;
  }
}

/** Loads a script that defines a global, such as `/node_modules/…`. */
export const load = (src) => new Promise((resolve) => add("script", { src }).addEventListener("load", resolve));

// Texts that clients show in a dialog are shown on the page instead.
window.alert = showError;
