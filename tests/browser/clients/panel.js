// What every client's page has: which gateway it was told to use, its user's ticket, and where what its user is told
// can be read.

const asked = new URLSearchParams(location.search);

export const gateway = asked.get("gateway");
export const ticket = asked.get("ticket");

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

// What clients say in a dialog stays on the page.
window.alert = showError;
