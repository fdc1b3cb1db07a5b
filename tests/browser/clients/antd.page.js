import { Upload } from "antd";
import { useState } from "react";
import { createRoot } from "react-dom/client";

import { add, gateway, ticket } from "./panel.js";

function Panel() {
  const [url, setUrl] = useState();
  const [message, setMessage] = useState();
  return (
    <>
// GUIDE: Ant Design
      {url && <img id="stored" src={url} alt="" />}
      {message && <p id="error">{message}</p>}
    </>
  );
}
createRoot(add("div")).render(<Panel />);
