import { fileURLToPath } from "node:url";

import { choose } from "../browser.js";

/** Its "cancel" calls `upload.cancel` of its options without aborting the request; its user can only leave the page. */
export const title = "Vditor";

/** It loads its parts from a public mirror; here they come from the package. */
export const prepare = (page) =>
  page.route(/^https:\/\/[^/]+\/vditor@[^/]+\//, (route) => {
    const file = route.request().url().replace(/^.*\/vditor@[^/]+\//, "").replace(/[?#].*$/, "");
    return route.fulfill({ path: fileURLToPath(new URL(`../node_modules/vditor/${file}`, import.meta.url)) });
  });

export const give = (page, path) => choose(page, ".vditor-toolbar [data-type=upload] input, .vditor-toolbar input[type=file]", path);
export const image = (page) => page.locator(".vditor-content img[src*='/v1/files/']");
export const said = (page) => page.locator(".vditor-tip", { hasNotText: "上传中" }).innerText();
/** Failures that do not come from the gateway are shown by the page. */
export const explained = (page) => page.locator("#error").innerText();
export const words = { "no network": /cannot be reached/, "proxy error": /cannot be reached/ };
