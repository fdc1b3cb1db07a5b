// Where files come from: the chooser, a drop anywhere on the page, a paste. It hands on lists of `File`.

/** Calls `take` with the files of every gesture that brings some. */
export function listen(take) {
  const chooser = document.getElementById("chooser");
  document.getElementById("choose").addEventListener("click", () => chooser.click());
  chooser.addEventListener("change", () => {
    take([...chooser.files]);
    // The same file may be chosen again.
    chooser.value = "";
  });

  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length) return;
    event.preventDefault();
    take(files);
  });

  // dragenter and dragleave come for every element on the way; the depth tells when the page itself is left.
  let depth = 0;
  const show = (by) => {
    depth = by ? depth + by : 0;
    document.body.classList.toggle("dragging", depth > 0);
  };
  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => carriesFiles(event) && show(1));
  addEventListener("dragleave", (event) => carriesFiles(event) && show(-1));
  addEventListener("dragover", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
  });
  addEventListener("drop", async (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    show(0);
    take(await dropped(event.dataTransfer));
  });
}

/** Every file of a drop; those of folders too. The items must be asked before the first wait: they die with the event. */
async function dropped(transfer) {
  const files = [...transfer.files];
  const entries = [...transfer.items].filter((item) => item.kind === "file").map((item) => item.webkitGetAsEntry?.());
  if (!entries.some((entry) => entry?.isDirectory)) return files;
  const found = await Promise.all(entries.map((entry, index) => (entry ? within(entry) : [files[index]])));
  return found.flat();
}

async function within(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    // At most a hundred at a time, and an empty list at the end.
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return found;
    for (const inner of some) found.push(...(await within(inner)));
  }
}
