// What clients of resumable uploads have in common.

/** What is refused by COS is kept, since it can be continued. Over COS's API first: there it is all at COS. */
export const [roads, isResumable] = [["api", "form"], true];

/** They try for 19 s, which is as long as a page is waited for. */
export const UNTIL_REFUSED = { timeout: 60_000 };
