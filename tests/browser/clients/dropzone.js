import { drop } from "../browser.js";

export const title = "Dropzone";

export const give = (page, path) => drop(page, "#dropzone", path);
/** It shows a proxy's error page verbatim. */
export const showsPages = true;
export const said = (page) => page.locator(".dz-error .dz-error-message").innerText();
