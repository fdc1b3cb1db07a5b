export const title = "WebUploader";
/** It does not pass the status to the page. */
export const words = { "no network": /abort/, "proxy error": /by a proxy/ };

/** Its button is a label over a file input. */
export const give = (page, path) => page.locator("#choose input[type=file]").setInputFiles(path);
export { cancel } from "./own-buttons.js";
