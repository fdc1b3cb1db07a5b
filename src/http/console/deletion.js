// Deletions that can be undone: each is carried out after a few seconds, or when the page is left.

/** In milliseconds. */
export const UNDO_TIME = 8000;

const pending = new Map();

/** Calls `carryOut` later, unless the deletion of `item` is undone before. */
export function schedule(item, carryOut) {
  const run = () => undo(item) && carryOut();
  pending.set(item, { run, timer: setTimeout(run, UNDO_TIME) });
}

/** Whether it was not too late. */
export function undo(item) {
  clearTimeout(pending.get(item)?.timer);
  return pending.delete(item);
}

// In the capture phase, so that the list has these deletions when it is stored for the last time (`finished.js`).
addEventListener("pagehide", () => [...pending.values()].forEach(({ run }) => run()), { capture: true });
