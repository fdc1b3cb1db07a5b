import { UNTIL_REFUSED } from "./tus.js";

export { cancel, give } from "./own-buttons.js";
export { isResumable, roads } from "./tus.js";

export const title = "tus-js-client, page";

export const said = (page) => page.locator("#error").innerText(UNTIL_REFUSED);
