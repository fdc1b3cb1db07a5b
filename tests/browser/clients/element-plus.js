import { drop } from "../browser.js";

export const title = "Element Plus";

export const give = (page, path) => drop(page, ".el-upload-dragger", path);

/** Cancels by the cross at the running upload. */
export async function cancel(page) {
  await page.locator(".el-upload-list__item").hover();
  await page.locator(".el-upload-list__item .el-icon--close").click();
  await page.locator(".el-upload-list__item").waitFor({ state: "detached" });
}
