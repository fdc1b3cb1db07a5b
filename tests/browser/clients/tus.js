// What clients of resumable uploads have in common.

/** What is refused by COS is kept, since it can be continued. Over COS's API first: there it is all at COS. */
export const [roads, isResumable] = [["api", "form"], true];

/**
 * Waits until the client has given up and shows `text`. It tries for 19 s, by the guide's `retryDelays`; here its pauses
 * pass in a twentieth of the time: the page's clock is put forward by a second every 50 ms. That is little enough not to
 * miss a message that is shown for 5 s.
 */
export async function untilRefused(page, text) {
  await page.clock.install();
  const deadline = Date.now() + 40_000;
  while (!(await appears(text))) {
    if (Date.now() > deadline) throw new Error("the client shows no failure");
    await page.clock.fastForward(1000);
  }
}

const appears = (text) => text.waitFor({ state: "attached", timeout: 50 }).then(() => true, () => false);
