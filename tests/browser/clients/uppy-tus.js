import { UNTIL_REFUSED } from "./tus.js";

export { cancel, give } from "./uppy.js";
export { isResumable, roads } from "./tus.js";

export const title = "Uppy, tus";

export const said = (page) => page.locator(".uppy-Informer [aria-label]").first().getAttribute("aria-label", UNTIL_REFUSED);
