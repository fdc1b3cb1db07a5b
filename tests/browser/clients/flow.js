export const title = "Flow.js";
export { cancel, give } from "./own-buttons.js";
