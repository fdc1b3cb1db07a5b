// What clients of resumable uploads have in common.

/** Over COS's API only. What is refused by COS is kept, since it can be continued. */
export const [roads, isResumable] = [["api"], true];

/** They try for 19 s, which is as long as a page is waited for. */
export const UNTIL_REFUSED = { timeout: 60_000 };
