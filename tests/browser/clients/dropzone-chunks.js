export { give, said, showsPages } from "./dropzone.js";

export const title = "Dropzone, chunking";
