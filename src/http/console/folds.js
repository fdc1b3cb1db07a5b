// Diagnostics, which are folded on a phone and open on wider screens.

const wide = matchMedia("(min-width: 30.01rem)");

/** Folds or opens what is to be folded below `root`. */
export function fold(root) {
  for (const details of root.querySelectorAll("details.fold")) details.open = wide.matches;
}

wide.addEventListener("change", () => fold(document));
