// The same upload as code, for the settings of the form. A key is never written out: it is what `KEY` stands for.

import { copy } from "./clipboard.js";
import { address } from "./upload.js";
import { say } from "./words.js";

const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const string = (text) => JSON.stringify(text);

// curl reads `,` and `;` in a file's name as its own, unless the name is quoted.
const part = (name) => (/[,;"\\]/.test(name) ? `file=@"${name.replace(/[\\"]/g, "\\$&")}"` : `file=@${name}`);

const curl = ({ url, name, key }) =>
  ["curl --fail-with-body", key && `-H "Authorization: Bearer $KEY"`, `-F ${shell(part(name))}`, shell(url)]
    .filter(Boolean)
    .join(" \\\n  ");

const fetched = ({ url, key, json }) => `const form = new FormData();
form.append("file", input.files[0]);

const reply = await fetch(${string(url)}, {
  method: "POST",${key ? "\n  headers: { Authorization: `Bearer ${KEY}` }," : ""}
  body: form,
});
${json ? `const result = await reply.json();
if (!reply.ok) throw new Error(\`\${result.code}: \${result.detail}\`);
console.log(result.url);` : "console.log(reply.status, await reply.text());"}
`;

const wx = ({ url, key, json }) => `wx.chooseMedia({
  count: 1,
  success({ tempFiles }) {
    const task = wx.uploadFile({
      url: ${string(url)},
      filePath: tempFiles[0].tempFilePath,
      name: "file",${key ? "\n      header: { Authorization: `Bearer ${KEY}` }," : ""}
      success({ statusCode, data }) {
${json ? `        const result = JSON.parse(data);
        if (statusCode === 201) console.log(result.url);
        else console.error(result.code, result.detail);` : "        console.log(statusCode, data);"}
      },
      fail: console.error,
    });
    task.onProgressUpdate(({ progress }) => console.log(progress, "%"));
  },
});
`;

const okhttp = ({ url, name, key }) => `RequestBody form = new MultipartBody.Builder().setType(MultipartBody.FORM)
    .addFormDataPart("file", ${string(name)}, RequestBody.create(null, new File(${string(name)})))
    .build();
Request request = new Request.Builder()
    .url(${string(url)})${key ? '\n    .header("Authorization", "Bearer " + KEY)' : ""}
    .post(form)
    .build();
try (Response reply = new OkHttpClient().newCall(request).execute()) {
    System.out.println(reply.code() + " " + reply.body().string());
}
`;

const LANGUAGES = { curl, fetch: fetched, "wx.uploadFile": wx, OkHttp: okhttp };

/** Shows the tabs; the function it returns draws them again for what is to be sent now. */
export function show(request) {
  const section = document.getElementById("snippets");
  const list = section.querySelector("[role=tablist]");
  const panel = document.getElementById("snippet");
  const [frame, code] = [panel.querySelector("pre"), panel.querySelector("code")];
  let chosen = "curl";

  const draw = () => {
    const { key, dir, profile, name } = request();
    const url = address({ dir, profile });
    code.textContent = LANGUAGES[chosen]({ url, name: name ?? "photo.jpg", key, json: profile === "default" });
    for (const tab of list.children) {
      tab.setAttribute("aria-selected", tab.id === `tab-${chosen}`);
      tab.tabIndex = tab.id === `tab-${chosen}` ? 0 : -1;
    }
    panel.setAttribute("aria-labelledby", `tab-${chosen}`);
    frame.setAttribute("aria-label", say("code_of", chosen));
  };

  for (const language of Object.keys(LANGUAGES)) {
    const tab = document.createElement("button");
    Object.assign(tab, { type: "button", id: `tab-${language}`, textContent: language });
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", panel.id);
    tab.addEventListener("click", () => {
      chosen = language;
      draw();
    });
    list.append(tab);
  }
  list.addEventListener("keydown", ({ key }) => {
    const tabs = [...list.children];
    const at = tabs.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: -1 }[key];
    if (to === undefined) return;
    const tab = tabs.at(to % tabs.length);
    tab.click();
    tab.focus();
  });
  const button = document.getElementById("copy-snippet");
  button.addEventListener("click", () => copy(code.textContent, button));
  draw();
  return draw;
}
