//! The API's description and its pages in English and Chinese: which of them a request gets.

use crate::harness::{Client, Gateway, Response, Setup};

fn get(gateway: &Gateway, path: &str, accepted: Option<&str>) -> Response {
    let mut client = Client::connect(gateway.address);
    let headers: Vec<_> = accepted.iter().map(|value| ("accept-language", *value)).collect();
    client.send_request("GET", path, &headers, b"");
    client.response()
}

fn varies(response: &Response) -> bool {
    let names = response.header("vary").unwrap_or_default().split(',');
    names.map(str::trim).any(|name| name.eq_ignore_ascii_case("accept-language"))
}

/// `?lang=` and `Accept-Language`, and the language that they lead to.
const REQUESTS: [(&str, Option<&str>, &str); 20] = [
    ("", None, "en"),
    ("", Some("zh-CN,zh;q=0.9,en;q=0.8"), "zh"),
    ("", Some("en-US,en;q=0.9,zh-CN;q=0.8"), "en"),
    ("", Some("en;q=0.2, zh-Hant-TW;q=0.3"), "zh"),
    ("", Some("fr, de;q=0.9, zh;q=0.1"), "zh"),
    ("", Some("fr, de"), "en"),
    ("", Some("*"), "en"),
    ("", Some("zh;q=0"), "en"),
    ("", Some("ZH"), "zh"),
    ("", Some(""), "en"),
    ("", Some("zh;q=x"), "en"),
    ("?lang=zh", None, "zh"),
    ("?lang=zh-CN", None, "zh"),
    ("?lang=en", Some("zh"), "en"),
    ("?lang=zh", Some("en"), "zh"),
    ("?lang=fr", Some("zh"), "zh"),
    ("?lang=fr", None, "en"),
    ("?lang=", Some("zh"), "zh"),
    ("?lang=%", None, "en"),
    ("?other=zh&lang=zh", Some("en"), "zh"),
];

#[test]
fn the_language_is_the_one_in_the_url_or_the_one_that_the_browser_prefers() {
    let world = Setup::new().start();
    for (query, accepted, language) in REQUESTS {
        let request = format!("{query} {accepted:?}");
        let response = get(&world.gateway, &format!("/openapi.json{query}"), accepted);
        assert_eq!(response.status, 200, "{request}");
        assert!(varies(&response), "{request}");
        let introduction = response.json()["info"]["description"].to_string();
        assert_eq!(introduction.contains("## 第一次上传"), language == "zh", "{request}");
        assert_eq!(introduction.contains("## First upload"), language == "en", "{request}");

        let page = get(&world.gateway, &format!("/docs/{query}"), accepted);
        assert!(varies(&page), "{request}");
        let text = page.text();
        assert!(text.contains(&format!("<html lang=\"{language}\">")), "{request}");
        let other = if language == "en" { "zh" } else { "en" };
        assert!(text.contains(&format!("<a href=\"?lang={other}\"")), "{request}");
    }
}

/// The page and what it loads are in one language, whatever the browser prefers.
#[test]
fn a_page_loads_the_description_in_its_own_language() {
    let world = Setup::new().start();
    for (language, accepted) in [("en", "zh"), ("zh", "en")] {
        let moved = get(&world.gateway, &format!("/docs?lang={language}"), Some(accepted));
        let location = format!("docs/?lang={language}");
        assert_eq!((moved.status, moved.header("location")), (308, Some(location.as_str())));
        let page = get(&world.gateway, &format!("/{location}"), Some(accepted)).text();
        let script = format!("swagger-initializer.js?lang={language}");
        assert!(page.contains(&format!("\"./{script}\"")), "{page}");
        let script = get(&world.gateway, &format!("/docs/{script}"), Some(accepted));
        assert!(script.text().contains(&format!("\"../openapi.json?lang={language}\"")));
    }
    let moved = get(&world.gateway, "/docs?lang=%0d%0aset-cookie:x", None);
    assert_eq!(moved.header("location"), Some("docs/"));
}
