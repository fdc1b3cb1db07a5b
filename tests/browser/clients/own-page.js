import { choose } from "../browser.js";

export const title = "fetch";

export const give = (page, path) => choose(page, "input[type=file]", path);
