import { drop } from "../browser.js";

export const title = "Ant Design";

export const give = (page, path) => drop(page, ".ant-upload-drag", path);

/** The bin at the file that is on its way. */
export async function cancel(page) {
  await page.locator(".ant-upload-list-item").hover();
  await page.locator(".ant-upload-list-item-action").click();
  await page.locator(".ant-upload-list-item").waitFor({ state: "detached" });
}
