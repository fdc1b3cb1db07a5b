// The sources of files: the file chooser, drops anywhere on the page, and pastes.

/** Calls `add` with the list of `File`s whenever some are chosen, dropped or pasted. */
export function onFiles(add) {
  const chooser = document.getElementById("chooser");
  document.getElementById("choose").addEventListener("click", () => chooser.click());
  chooser.addEventListener("change", () => {
    add([...chooser.files]);
    // Otherwise choosing the same file again would not be a change.
    chooser.value = "";
  });

  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length) return;
    event.preventDefault();
    add(files);
  });

  // dragenter and dragleave are fired for every element; at depth 0 the pointer has left the page.
  let depth = 0;
  const changeDepth = (change) => {
    depth = change ? depth + change : 0;
    document.body.classList.toggle("dragging", depth > 0);
  };
  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => carriesFiles(event) && changeDepth(1));
  addEventListener("dragleave", (event) => carriesFiles(event) && changeDepth(-1));
  addEventListener("dragover", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
  });
  addEventListener("drop", async (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    changeDepth(0);
    add(await droppedFiles(event.dataTransfer));
  });
}

/** Asks for one file; calls `chosen` with it, if the user chooses one. */
export function askForFile(chosen) {
  const chooser = document.getElementById("single-chooser");
  chooser.value = "";
  chooser.onchange = () => chosen(chooser.files[0]);
  chooser.click();
}

/** All files of a drop, including those in folders. The items are valid during the event only, so no await precedes. */
async function droppedFiles(transfer) {
  const files = [...transfer.files];
  const entries = [...transfer.items].filter((item) => item.kind === "file").map((item) => item.webkitGetAsEntry?.());
  if (!entries.some((entry) => entry?.isDirectory)) return files;
  const lists = await Promise.all(entries.map((entry, index) => (entry ? filesOf(entry) : [files[index]])));
  return lists.flat();
}

async function filesOf(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader();
  const files = [];
  for (;;) {
    // Each call returns at most 100 entries; an empty list is the end.
    const batch = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!batch.length) return files;
    for (const inner of batch) files.push(...(await filesOf(inner)));
  }
}
