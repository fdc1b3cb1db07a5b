// Reads the gateway's answers. The default profile says everything; of an editor's shape the address or the refusal.

export const profiles = [
  "default", "wangeditor", "tinymce", "ckeditor", "editorjs", "vditor", "ueditor", "filepond", "dropzone", "text",
];

/** `{ stored }` or `{ problem }`. */
export function read(answer) {
  const body = parsed(answer.text);
  if (answer.status < 200 || answer.status > 299 || refuses(body)) return { problem: problem(answer, body) };
  return { stored: stored(answer, body) };
}

/** What to say where no answer came at all. */
export function problem({ status, text, requestId, retryAfter }, body = parsed(text)) {
  const message = body.detail ?? body.message ?? body.error?.message ?? body.error ?? body.msg ?? body.state;
  return {
    code: body.code && typeof body.code === "string" ? body.code : undefined,
    title: body.title ?? `HTTP ${status}`,
    detail: typeof message === "string" ? message : text.slice(0, 400),
    marks: { errcode: body.errcode, rid: body.rid, cos_code: body.cos_code, cos_request_id: body.cos_request_id },
    requestId: body.request_id ?? requestId,
    status,
    retryAfter,
    raw: text,
  };
}

function stored({ text, requestId, timing }, body) {
  const file = body.files?.[0] ?? {};
  const plain = text.trim();
  const named = /^(https?:\/\/|\/)\S+$/.test(plain) ? plain : undefined;
  const url = body.url ?? body.location ?? body.data?.url ?? body.file?.url ?? first(body.data?.succMap) ?? named;
  const fileId = file.file_id ?? body.file_id ?? (plain.startsWith("cloud://") ? plain : undefined);
  return {
    url,
    fileId,
    path: file.path ?? pathOf(url, fileId),
    size: file.size,
    type: file.content_type,
    crc64: file.crc64,
    verified: file.verified,
    requestId,
    timing,
    raw: text,
  };
}

/** Editors that read nothing but a 2xx are refused in one. */
const refuses = (body) =>
  Boolean(body.errno) || body.success === 0 || typeof body.code === "number" && body.code !== 0 ||
  "state" in body && body.state !== "SUCCESS" || Boolean(body.files?.[0]?.error);

function parsed(text) {
  try {
    const body = JSON.parse(text);
    return body && typeof body === "object" ? body : {};
  } catch {
    return {};
  }
}

const first = (map) => map && Object.values(map)[0];

function pathOf(url, fileId) {
  // cloud://ENV.BUCKET/PATH
  if (fileId) return fileId.split("/").slice(3).join("/");
  const encoded = url?.split("/v1/files/")[1]?.split("?")[0];
  return encoded && decodeURIComponent(encoded);
}
