export const title = "Fine Uploader";
export { cancel, give } from "./own-buttons.js";
