// The same upload as code, with the form's settings. The key itself is not shown: the code has the placeholder `KEY`.

import { copy } from "./clipboard.js";
import { uploadUrl } from "./upload.js";
import { text } from "./words.js";

const shell = (value) => `'${value.replaceAll("'", "'\\''")}'`;
const string = (value) => JSON.stringify(value);

// In a file's name that is not quoted, `,` and `;` have a meaning for curl.
const part = (name) => (/[,;"\\]/.test(name) ? `file=@"${name.replace(/[\\"]/g, "\\$&")}"` : `file=@${name}`);

const curl = ({ url, name, key }) =>
  ["curl --fail-with-body", key && `-H "Authorization: Bearer $KEY"`, `-F ${shell(part(name))}`, shell(url)]
    .filter(Boolean)
    .join(" \\\n  ");

const fetched = ({ url, key, json }) => `const form = new FormData();
form.append("file", input.files[0]);

const response = await fetch(${string(url)}, {
  method: "POST",${key ? "\n  headers: { Authorization: `Bearer ${KEY}` }," : ""}
  body: form,
});
${json ? `const result = await response.json();
if (!response.ok) throw new Error(\`\${result.code}: \${result.detail}\`);
console.log(result.url);` : "console.log(response.status, await response.text());"}
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
try (Response response = new OkHttpClient().newCall(request).execute()) {
    System.out.println(response.code() + " " + response.body().string());
}
`;

const LANGUAGES = { curl, fetch: fetched, "wx.uploadFile": wx, OkHttp: okhttp };

/** Shows the tabs; the returned function updates them for the form's current settings. */
export function showSnippets(request) {
  const section = document.getElementById("snippets");
  const list = section.querySelector("[role=tablist]");
  const panel = document.getElementById("snippet");
  const [block, code] = [panel.querySelector("pre"), panel.querySelector("code")];
  let chosen = "curl";

  const draw = () => {
    const { key, dir, profile, name } = request();
    const url = uploadUrl({ dir, profile });
    code.textContent = LANGUAGES[chosen]({ url, name: name ?? "photo.jpg", key, json: profile === "default" });
    for (const tab of list.children) {
      tab.setAttribute("aria-selected", tab.id === `tab-${chosen}`);
      tab.tabIndex = tab.id === `tab-${chosen}` ? 0 : -1;
    }
    panel.setAttribute("aria-labelledby", `tab-${chosen}`);
    block.setAttribute("aria-label", text("code_of", chosen));
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
    const index = tabs.indexOf(document.activeElement);
    const target = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: -1 }[key];
    if (target === undefined) return;
    const tab = tabs.at(target % tabs.length);
    tab.click();
    tab.focus();
  });
  const button = document.getElementById("copy-snippet");
  button.addEventListener("click", () => copy(code.textContent, button));
  draw();
  return draw;
}
