//! API keys and the key for tickets.

use super::{DIGITS, keys, production, with_file};
use crate::settings::{Action, PassQuery};

#[test]
fn keys_have_all_rights_by_default() {
    let toml = format!(
        "auth.keys.panel = {{ sha256 = '{DIGITS}' }}\n\
         [auth.keys.mini-app_2]\nsha256 = '{}'\ncan = ['upload', 'link']\nprefix = 'mini/app'\nclient_paths = false\n",
        "AB".repeat(32)
    );
    let settings = with_file(&toml, &[("GATEWAY__AUTH__KEYS__PANEL__CLIENT_PATHS", "true")])
        .expect("no faults");
    let panel = &settings.auth.keys["panel"];
    assert_eq!(panel.policy.can.len(), 5);
    // Only keys mint tickets.
    assert!(panel.policy.can.contains(&Action::Mint));
    for policy in [&settings.auth.jwt.policy, &settings.auth.wx] {
        assert!(!policy.can.contains(&Action::Mint));
    }
    assert_eq!((panel.policy.prefix.as_deref(), panel.policy.client_paths), (None, Some(true)));
    let app = &settings.auth.keys["mini-app_2"];
    assert_eq!(app.sha256, [0xab; 32]);
    let app = &app.policy;
    assert!(app.can.contains(&Action::Link) && !app.can.contains(&Action::Delete));
    assert_eq!((app.prefix.as_deref(), app.client_paths), (Some("mini/app/"), Some(false)));
}

#[test]
fn contradictory_and_malformed_keys_are_refused() {
    let nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let toml = format!(
        "[auth.keys.a]\nsha256 = '{DIGITS}'\n[auth.keys.b]\nsha256 = '{DIGITS}'\n\
         [auth.keys.c]\nsha256 = 'the-key-itself'\n[auth.keys.d]\nsha256 = '{nothing}'\n[auth.keys.e]\ncan = []\n\
         [auth.keys.F]\nsha256 = '{}'\n[auth.keys.g]\nsha256 = '{}'\ncan = 'upload, fly'\nprefix = '/x'\nshoe = 1\n",
        "11".repeat(32),
        "22".repeat(32),
    );
    let result = with_file(&toml, &[]);
    let expected = [
        "auth.keys.F",
        "auth.keys.b.sha256",
        "auth.keys.c.sha256",
        "auth.keys.d.sha256",
        "auth.keys.e.can",
        "auth.keys.e.sha256",
        "auth.keys.g.can",
        "auth.keys.g.prefix",
        "auth.keys.g.shoe",
    ];
    assert_eq!(keys(&result), expected);
    let report = result.expect_err("faults").to_string();
    assert!(
        !report.contains("the-key-itself") && report.contains("\"fly\" is not one of upload"),
        "{report}"
    );
}

#[test]
fn presets_have_plain_names_and_one_parameter() {
    let toml = "[links]\npass_query = ['imageView2/*', 'response-content-disposition']\n\
                presets.large = 'imageMogr2/thumbnail/1200x'\n";
    let variable = ("GATEWAY__LINKS__PRESETS__THUMB_2", "imageMogr2/thumbnail/200x");
    let links = with_file(toml, &[variable]).expect("no faults").links;
    // `thumb` is the sandbox's own.
    assert_eq!(links.presets.keys().collect::<Vec<_>>(), ["large", "thumb", "thumb_2"]);
    assert_eq!(links.presets["thumb_2"], "imageMogr2/thumbnail/200x");
    assert_eq!(links.pass_query, [PassQuery::ImageView2, PassQuery::ResponseContentDisposition]);

    let toml = "[links.presets]\nThumb = 'imageMogr2/strip'\n'a b' = 'imageMogr2/strip'\nx = 200\n\
                y = 'imageMogr2/strip&sign=0'\n'a.b' = 'imageMogr2/strip'\n'' = 'imageMogr2/strip'\n\
                [links]\npass_query = ['response-content-type', '*', 'imageMogr2/']\n";
    let result = with_file(
        &toml.replace(
            "[links.presets]",
            "[links.presets.z]\nq = 'imageMogr2/strip'\n[links.presets]",
        ),
        &[],
    );
    let expected = [
        "links.pass_query",
        "links.pass_query",
        "links.pass_query",
        "links.presets.",
        "links.presets.Thumb",
        "links.presets.a b",
        "links.presets.a.b",
        "links.presets.x",
        "links.presets.y",
        "links.presets.z.q",
    ];
    assert_eq!(keys(&result), expected);
}

#[test]
fn a_key_for_tickets_that_does_not_fit_its_algorithm_is_refused() {
    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    const PEM: &str = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
    let with = |algorithm: &str, key: &str, file: &str| {
        production(&[
            ("GATEWAY__AUTH__JWT__ALGORITHM", algorithm),
            ("GATEWAY__AUTH__JWT__KEY", key),
            ("GATEWAY__AUTH__JWT__KEY_FILE", file),
        ])
    };
    for (algorithm, key, file) in
        [("", "", ""), ("HS256", SECRET, ""), ("ES256", PEM, ""), ("RS256", "", "/key.pem")]
    {
        assert!(with(algorithm, key, file).is_ok(), "{algorithm}");
    }
    for (algorithm, key, file, fault) in [
        ("", SECRET, "", "auth.jwt.algorithm"),
        ("", "", "/key.pem", "auth.jwt.algorithm"),
        ("none", SECRET, "", "auth.jwt.algorithm"),
        ("hs256", SECRET, "", "auth.jwt.algorithm"),
        ("HS256", "", "", "auth.jwt.key"),
        ("HS256", &SECRET[1..], "", "auth.jwt.key"),
        // A public key is not secret: any client that has it could sign tickets.
        ("HS256", PEM, "", "auth.jwt.key"),
        ("EdDSA", SECRET, "", "auth.jwt.key"),
        ("HS256", SECRET, "/key.pem", "auth.jwt.key_file"),
    ] {
        let result = with(algorithm, key, file);
        assert_eq!(keys(&result), [fault], "{algorithm} {key}");
        assert!(!result.expect_err("faults").to_string().contains(&SECRET[1..]));
    }
}

#[test]
fn the_url_of_a_key_set_needs_an_algorithm_with_public_keys() {
    let with = |algorithm: &str, url: &str, key: &str| {
        production(&[
            ("GATEWAY__AUTH__JWT__ALGORITHM", algorithm),
            ("GATEWAY__AUTH__JWT__JWKS_URL", url),
            ("GATEWAY__AUTH__JWT__KEY", key),
        ])
    };
    const URL: &str = "https://login.example.com/keys";
    const PEM: &str = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
    for algorithm in ["RS256", "ES256", "EdDSA"] {
        for key in ["", PEM] {
            let settings = with(algorithm, URL, key).expect("no faults");
            assert_eq!(settings.auth.jwt.jwks_url.as_deref(), Some(URL));
            assert!(!settings.warnings().join("\n").contains("jwks_url"));
        }
    }
    let secret = "0123456789abcdef0123456789abcdef";
    for key in ["", secret] {
        let result = with("HS256", URL, key);
        assert_eq!(keys(&result), ["auth.jwt.jwks_url"]);
        assert!(result.expect_err("a fault").to_string().contains("\"HS256\""));
    }
    assert_eq!(keys(&with("", URL, "")), ["auth.jwt.algorithm"]);
    for url in ["login.example.com", "ftp://login.example.com/", "https://a@b.example.com/"] {
        assert_eq!(keys(&with("ES256", url, "")), ["auth.jwt.jwks_url"], "{url}");
    }
    let plain = with("ES256", "http://login.example.com/keys", "").expect("no faults");
    assert!(plain.warnings().join("\n").contains("auth.jwt.jwks_url is plain http"));
}

#[test]
fn a_key_for_receipts_is_long_and_of_its_own() {
    const KEY: &str = "0123456789abcdef0123456789abcdef";
    let with = |key: &str, tickets: &str| {
        production(&[
            ("GATEWAY__RECEIPTS__KEY", key),
            ("GATEWAY__AUTH__JWT__ALGORITHM", "HS256"),
            ("GATEWAY__AUTH__JWT__KEY", tickets),
        ])
    };
    let other = KEY.replace('0', "x");
    assert!(with(KEY, &other).is_ok());
    for wrong in [&KEY[1..], other.as_str(), "with a space 6789abcdef0123456789"] {
        let result = with(wrong, &other);
        assert_eq!(keys(&result), ["receipts.key"], "{wrong}");
        assert!(!result.expect_err("faults").to_string().contains(wrong));
    }
    let settings = with(KEY, &other).expect("no faults");
    assert!(!settings.describe().contains(KEY) && !format!("{settings:?}").contains(KEY));
}

#[test]
fn headers_that_the_gateway_writes_itself_are_not_forwarded() {
    let with = |headers: &str| {
        production(&[
            ("GATEWAY__AUTH__FORWARD_URL", "https://panel.example.com/auth/"),
            ("GATEWAY__AUTH__FORWARD_HEADERS", headers),
        ])
    };
    let settings = with("X-CSRF-Token, user-agent").expect("no faults");
    let forward = &settings.auth.forward;
    assert_eq!(forward.url.as_deref(), Some("https://panel.example.com/auth"));
    assert_eq!(forward.headers, ["x-csrf-token", "user-agent"]);
    for header in ["Host", "X-Forwarded-For", "x-forwarded-any", "content-length", "a b", "é:"] {
        assert_eq!(keys(&with(header)), ["auth.forward_headers"], "{header}");
    }
}

#[test]
fn what_makes_forward_auth_unsafe_is_warned_about() {
    let with = |url: &str, origins: &str| {
        let pairs = [
            ("GATEWAY__AUTH__FORWARD_URL", url),
            ("GATEWAY__CORS__ORIGINS", origins),
            ("GATEWAY__AUTH__ANONYMOUS", "true"),
        ];
        production(&pairs).expect("no faults").warnings().join("\n")
    };
    let warnings = with("http://panel.example.com", "null");
    for part in
        ["any page may act", "auth.forward_url is plain http", "decides about every request"]
    {
        assert!(warnings.contains(part), "{part}: {warnings}");
    }
    let warnings = with("http://10.0.0.7:3000", "https://panel.example.com");
    assert!(!warnings.contains("plain http") && !warnings.contains("null"), "{warnings}");
    assert!(!with("", "null").contains("forward_url"));
}
