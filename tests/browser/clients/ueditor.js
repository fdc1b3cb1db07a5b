export const title = "UEditor";
export const setsHeaders = false;

/** Its button is a file input in a separate frame. */
export const give = (page, path) =>
  page.frameLocator(".edui-for-simpleupload iframe").locator("input[type=file]").setInputFiles(path);

export const image = (page) => page.frameLocator("#ueditor_0").locator("img[src*='/v1/files/']");
/** Without its configuration, which it requests first, it shows nothing: a bug makes its error message unreachable. */
export const explains = false;
export const said = (page) => page.locator(".edui-message-type-error .edui-message-content").first().innerText();
