export const title = "resumable.js";
/** It passes no status on. */
export const words = { "proxy error": /by a proxy/ };
export { cancel, give } from "./own-buttons.js";
