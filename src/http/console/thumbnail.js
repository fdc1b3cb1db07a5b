// Small pictures of the files to be sent, made one after the other: decoding many large photos at once is what brings
// a phone's browser down.

const EDGE = 112;
let line = Promise.resolve();

/** The address of a small picture of `file`, or nothing if it is none. */
export function thumbnail(file) {
  if (!file.type.startsWith("image/")) return Promise.resolve();
  const made = line.then(() => small(file)).catch(() => asItIs(file));
  line = made;
  return made;
}

async function small(file) {
  const picture = await createImageBitmap(file);
  const scale = EDGE / Math.min(picture.width, picture.height);
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(picture.width * Math.min(1, scale)));
  canvas.height = Math.max(1, Math.round(picture.height * Math.min(1, scale)));
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
  picture.close();
  const blob = await new Promise((resolve) => canvas.toBlob(resolve));
  return URL.createObjectURL(blob);
}

/** What cannot be drawn small (SVG) is shown itself, if it is no burden. */
const asItIs = (file) => (file.size < 1 << 20 ? URL.createObjectURL(file) : undefined);
