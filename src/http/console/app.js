// One file at a time: choose, watch, follow the link. XMLHttpRequest, because fetch has no upload progress.
"use strict";

const element = (id) => document.getElementById(id);

element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const file = element("file").files[0];
  if (!file) return;
  const form = new FormData();
  form.append("file", file, file.name);
  const progress = element("progress");
  const status = element("status");
  const button = element("form").querySelector("button");
  element("result").hidden = true;
  progress.hidden = false;
  progress.value = 0;
  button.disabled = true;

  const request = new XMLHttpRequest();
  request.open("POST", "/v1/files");
  request.upload.onprogress = (sent) => {
    if (!sent.lengthComputable) return;
    progress.value = sent.loaded / sent.total;
    status.textContent = `${Math.floor(100 * progress.value)} %`;
  };
  request.onerror = () => {
    status.textContent = "The connection broke. 连接中断。";
  };
  request.onloadend = () => {
    button.disabled = false;
    progress.hidden = true;
    if (request.status) show(request.status, request.responseText, file);
  };
  request.send(form);
});

function show(status, text, file) {
  let reply;
  try {
    reply = JSON.parse(text);
  } catch {
    reply = { detail: text };
  }
  element("reply").textContent = JSON.stringify(reply, null, 2);
  element("result").hidden = false;
  const link = element("link");
  const image = element("image");
  link.hidden = image.hidden = !(status === 201 && reply.url);
  if (status !== 201) {
    element("status").textContent = `${status} ${reply.code ?? ""}: ${reply.detail ?? ""}`;
    return;
  }
  element("status").textContent = "Stored. 已保存。";
  link.href = link.textContent = reply.url;
  image.hidden = !reply.files[0].content_type.startsWith("image/");
  if (!image.hidden) {
    image.src = reply.url;
    image.alt = file.name;
  }
}
