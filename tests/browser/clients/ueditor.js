export const title = "UEditor";
export const setsHeaders = false;

/** Its button is an input in a frame of its own, which it posts. */
export const give = (page, path) =>
  page.frameLocator(".edui-for-simpleupload iframe").locator("input[type=file]").setInputFiles(path);

export const image = (page) => page.frameLocator("#ueditor_0").locator("img[src*='/v1/files/']");
/** Without its configuration, which it asks for first, it stays silent: its message for that is out of reach of its code. */
export const explains = false;
export const said = (page) => page.locator(".edui-message-type-error .edui-message-content").first().innerText();
