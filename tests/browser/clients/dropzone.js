import { drop } from "../browser.js";

export const title = "Dropzone";

export const give = (page, path) => drop(page, "#dropzone", path);
export const said = (page) => page.locator(".dz-error .dz-error-message").innerText();
