import { drop } from "../browser.js";

export const title = "FilePond";

export const give = (page, path) => drop(page, ".filepond--drop-label", path);
export const said = (page) => page.locator("[data-filepond-item-state=processing-error] .filepond--file-status-main").innerText();

/** Cancels by the cross at the running upload. */
export async function cancel(page) {
  await page.locator(".filepond--action-abort-item-processing").click();
  const item = page.locator("[data-filepond-item-state=cancelled], [data-filepond-item-state=idle]").first();
  // A browser that is busy with a large picture shows it only later.
  await item.waitFor({ state: "attached" });
}
