import Vditor from "vditor";
import "vditor/dist/index.css";

import { add, gateway, ticket } from "./panel.js";

add("div", { id: "editor" });
// README: Vditor
