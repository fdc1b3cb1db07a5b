import ElementPlus from "element-plus";
import "element-plus/dist/index.css";
import { createApp } from "vue/dist/vue.esm-bundler.js";

import { add, gateway, ticket } from "./panel.js";

createApp({
  data: () => ({ ticket, url: undefined, message: undefined }),
  template: `${GUIDE("Element Plus").replace("https://files.example.com", gateway)}
    <img v-if="url" :src="url" id="stored"><p v-if="message" id="error">{{ message }}</p>`,
})
  .use(ElementPlus)
  .mount(add("div"));
