export const title = "WebUploader";
/** It passes no status on. */
export const words = { "no network": /abort/, "proxy error": /by a proxy/ };

/** Its button is a label over an input. */
export const give = (page, path) => page.locator("#choose input[type=file]").setInputFiles(path);
export { cancel } from "./own-buttons.js";
