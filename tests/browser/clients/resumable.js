export const title = "resumable.js";
/** It does not pass the status to the page. */
export const words = { "proxy error": /by a proxy/ };
export { cancel, give } from "./own-buttons.js";
