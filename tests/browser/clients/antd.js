import { drop } from "../browser.js";

export const title = "Ant Design";

export const give = (page, path) => drop(page, ".ant-upload-drag", path);

/** Cancels by the bin icon of the running upload. */
export async function cancel(page) {
  await page.locator(".ant-upload-list-item").hover();
  await page.locator(".ant-upload-list-item-action").click();
  await page.locator(".ant-upload-list-item").waitFor({ state: "detached" });
}
