//! The five documents this gateway was asked to follow, row by row, and the test that shows each row hold.
//!
//! `cargo test --release --test api documents -- --nocapture` prints the table.

use std::collections::BTreeMap;

/// One table of a document: its rows, and the tests of each. Rows that are shown by the same tests share a line.
struct Table {
    document: &'static str,
    table: &'static str,
    /// As counted in the document.
    rows: usize,
    shown: &'static [(&'static [&'static str], &'static [&'static str])],
}

const TOKEN: &[&str] =
    &["credentials::each_mode_calls_as_it_is_documented", "tcb::keys_replace_tokens"];
const ENV: &[&str] = &[
    "tcb::the_environment_is_filled_in_where_it_is_missing",
    "wire::calls_to_wechat_match_the_documents",
];
const SHAPES: &[&str] = &["tcb::requests_and_responses_match_the_documents"];
const LISTS: &[&str] = &[
    "tcb::more_than_fifty_files_are_accepted",
    "storage::wechat_s_lists_are_read_in_every_spelling",
];
const FORM: &[&str] = &[
    "wire::cos_gets_the_fields_in_order_then_the_file_and_nothing_more",
    "storage::an_upload_link_is_enough_for_curl",
];
const DONE: &[&str] = &["tcb::requests_and_responses_match_the_documents"];
const PASSING: &[&str] =
    &["credentials::each_refusal_says_what_to_change", "tcb::wechat_s_own_errors_are_passed_on"];
const BAD_TOKEN: &[&str] = &[
    "tokens::a_revoked_token_costs_one_more_call",
    "credentials::the_platforms_file_is_read_again_when_it_changes_and_when_its_token_is_refused",
];
const EXPIRED: &[&str] = &["tokens::an_expired_token_costs_one_more_call"];
const WRONG: &[&str] = &[
    "tcb::wrong_requests_are_answered_as_wechat_answers_them",
    "credentials::each_refusal_says_what_to_change",
];
const NO_TOKEN: &[&str] = &[
    "tcb::keys_replace_tokens",
    "credentials::the_open_interface_services_failures_are_explained",
    "credentials::each_refusal_says_what_to_change",
];
const SWITCHED_OFF: &[&str] = PASSING;
const OTHERS: &[&str] =
    &["credentials::each_refusal_says_what_to_change", "links::a_reader_is_told_what_wechat_said"];

/// What each call of the storage API may answer; `42001` stands in some of the lists only.
const CODES: &[(&[&str], &[&str])] = &[
    (&["0"], DONE),
    (&["-1", "-1000"], PASSING),
    (&["40014"], BAD_TOKEN),
    (&["40097", "40101", "43002", "44002", "47001"], WRONG),
    (&["41001"], NO_TOKEN),
    (&["85088"], SWITCHED_OFF),
    (&["others"], OTHERS),
];
const CODES_AND_EXPIRY: &[(&[&str], &[&str])] = &[
    (&["0"], DONE),
    (&["-1", "-1000"], PASSING),
    (&["40014"], BAD_TOKEN),
    (&["42001"], EXPIRED),
    (&["40097", "40101", "43002", "44002", "47001"], WRONG),
    (&["41001"], NO_TOKEN),
    (&["85088"], SWITCHED_OFF),
    (&["others"], OTHERS),
];
const DOWNLOAD_REQUEST: &[(&[&str], &[&str])] = &[
    (&["access_token / cloudbase_access_token"], TOKEN),
    (&["env"], ENV),
    (&["file_list"], LISTS),
];
const DOWNLOAD_FILE: &[(&[&str], &[&str])] = &[
    (&["fileid"], LISTS),
    (
        &["max_age"],
        &["storage::links_have_the_requested_lifetime_and_are_cached_until_shortly_before_expiry"],
    ),
];
const DOWNLOAD_REPLY: &[(&[&str], &[&str])] = &[(&["errcode", "errmsg", "file_list"], SHAPES)];
const DOWNLOAD_REPLY_FILE: &[(&[&str], &[&str])] = &[
    (&["fileid"], &["storage::wechat_s_lists_are_read_in_every_spelling", SHAPES[0]]),
    (
        &["download_url"],
        &["storage::a_hundred_and_twenty_files_are_stored_linked_and_deleted", SHAPES[0]],
    ),
    (
        &["status", "errmsg"],
        &["storage::links_are_in_request_order_and_each_file_is_requested_once", SHAPES[0]],
    ),
];
const UPLOAD_REQUEST: &[(&[&str], &[&str])] = &[
    (&["access_token"], TOKEN),
    (&["env"], ENV),
    (
        &["path"],
        &[
            "wire::calls_to_wechat_match_the_documents",
            "tcb::wrong_requests_are_answered_as_wechat_answers_them",
        ],
    ),
];
const UPLOAD_REPLY: &[(&[&str], &[&str])] = &[
    (&["errcode", "errmsg"], SHAPES),
    (&["url", "token", "authorization", "cos_file_id"], &[FORM[0], FORM[1], SHAPES[0]]),
    (
        &["file_id"],
        &["storage::a_hundred_and_twenty_files_are_stored_linked_and_deleted", SHAPES[0]],
    ),
];
const UPLOAD_FORM: &[(&[&str], &[&str])] = &[
    (&["key", "Signature", "x-cos-security-token"], FORM),
    (
        &["x-cos-meta-fileid"],
        &[FORM[0], FORM[1], "links::a_file_stored_without_its_fileid_is_not_found_with_a_reason"],
    ),
    (&["file"], FORM),
];
/// The English pages list the codes with what each means; these two are for the token.
const INVALID: &[&str] =
    &["tokens::a_revoked_token_costs_one_more_call", "tcb::keys_replace_tokens"];

const TABLES: &[Table] = &[
    Table { document: "000", table: "request", rows: 3, shown: DOWNLOAD_REQUEST },
    Table { document: "000", table: "file_list of the request", rows: 2, shown: DOWNLOAD_FILE },
    Table { document: "000", table: "reply", rows: 3, shown: DOWNLOAD_REPLY },
    Table { document: "000", table: "file_list of the reply", rows: 4, shown: DOWNLOAD_REPLY_FILE },
    Table { document: "000", table: "errcode", rows: 13, shown: CODES_AND_EXPIRY },
    Table {
        document: "000",
        table: "ways to show a token, question and sample",
        rows: 5,
        shown: &[
            (
                &["by secret", "by cloudbase_access_token", "open interface service"],
                &["credentials::each_mode_uploads_links_and_deletes", TOKEN[0]],
            ),
            (
                &["STORAGE_FILE_NONEXIST"],
                &["links::a_file_stored_without_its_fileid_is_not_found_with_a_reason"],
            ),
            (
                &["PHP sample"],
                &["tcb::the_php_samples_request_works", "tcb::the_endpoint_of_the_sample"],
            ),
        ],
    },
    Table { document: "001", table: "uploadFile: request", rows: 3, shown: UPLOAD_REQUEST },
    Table { document: "001", table: "uploadFile: reply", rows: 7, shown: UPLOAD_REPLY },
    Table { document: "001", table: "uploadFile: errcode", rows: 12, shown: CODES },
    Table { document: "001", table: "uploadFile: form", rows: 5, shown: UPLOAD_FORM },
    Table {
        document: "001",
        table: "batchDownloadFile: request",
        rows: 3,
        shown: DOWNLOAD_REQUEST,
    },
    Table {
        document: "001",
        table: "batchDownloadFile: file_list of the request",
        rows: 2,
        shown: DOWNLOAD_FILE,
    },
    Table { document: "001", table: "batchDownloadFile: reply", rows: 3, shown: DOWNLOAD_REPLY },
    Table {
        document: "001",
        table: "batchDownloadFile: errcode",
        rows: 13,
        shown: CODES_AND_EXPIRY,
    },
    Table {
        document: "001",
        table: "batchDownloadFile: file_list of the reply",
        rows: 4,
        shown: DOWNLOAD_REPLY_FILE,
    },
    Table {
        document: "001",
        table: "batchDeleteFile: request",
        rows: 3,
        shown: &[(&["access_token"], TOKEN), (&["env"], ENV), (&["fileid_list"], LISTS)],
    },
    Table {
        document: "001",
        table: "batchDeleteFile: reply",
        rows: 3,
        shown: &[
            (&["errcode", "errmsg"], SHAPES),
            (&["delete_list"], &["storage::wechat_s_lists_are_read_in_every_spelling", SHAPES[0]]),
        ],
    },
    Table { document: "001", table: "batchDeleteFile: errcode", rows: 13, shown: CODES_AND_EXPIRY },
    Table { document: "002", table: "request", rows: 3, shown: DOWNLOAD_REQUEST },
    Table { document: "002", table: "reply", rows: 3, shown: DOWNLOAD_REPLY },
    Table {
        document: "002",
        table: "calls by a third party, samples",
        rows: 2,
        shown: &[
            (
                &["authorizer_access_token"],
                &[
                    "credentials::each_mode_uploads_links_and_deletes",
                    "credentials::an_authorizers_failures_are_explained",
                ],
            ),
            (
                &["a file's id called `files`"],
                &["storage::wechat_s_lists_are_read_in_every_spelling"],
            ),
        ],
    },
    Table {
        document: "002",
        table: "error code",
        rows: 16,
        shown: &[
            (
                &["-501007", "-501002", "-501000"],
                &["credentials::each_refusal_says_what_to_change"],
            ),
            (&["40001"], INVALID),
            (&["0"], DONE),
            (&["-1", "-1000"], PASSING),
            (&["40014"], BAD_TOKEN),
            (&["42001"], EXPIRED),
            (&["40097", "40101", "43002", "44002", "47001"], WRONG),
            (&["41001"], NO_TOKEN),
            (&["85088"], SWITCHED_OFF),
        ],
    },
    Table {
        document: "003",
        table: "token request",
        rows: 3,
        shown: &[(
            &["grant_type", "appid", "secret"],
            &["credentials::each_mode_calls_as_it_is_documented"],
        )],
    },
    Table { document: "003", table: "upload link request", rows: 3, shown: UPLOAD_REQUEST },
    Table { document: "003", table: "form", rows: 5, shown: UPLOAD_FORM },
    Table {
        document: "003",
        table: "rules of the form",
        rows: 2,
        shown: &[(&["no `$` in key"], &["uploads::invalid_paths"]), (&["file last"], &[FORM[0]])],
    },
    Table { document: "003", table: "download link request", rows: 3, shown: DOWNLOAD_REQUEST },
    Table { document: "004", table: "request", rows: 3, shown: UPLOAD_REQUEST },
    Table { document: "004", table: "reply", rows: 7, shown: UPLOAD_REPLY },
    Table {
        document: "004",
        table: "error code",
        rows: 12,
        shown: &[
            (&["40001 (its number is lost in translation)"], INVALID),
            (&["0"], DONE),
            (&["-1", "-1000"], PASSING),
            (&["40014"], BAD_TOKEN),
            (&["40097", "40101", "43002", "44002", "47001"], WRONG),
            (&["41001"], NO_TOKEN),
            (&["85088"], SWITCHED_OFF),
        ],
    },
];

#[test]
fn every_row_of_the_documents_has_its_test() {
    let sources = BTreeMap::from([
        ("credentials", include_str!("credentials.rs")),
        ("links", include_str!("links.rs")),
        ("storage", include_str!("storage.rs")),
        ("tcb", include_str!("tcb.rs")),
        ("tokens", include_str!("tokens.rs")),
        ("uploads", include_str!("uploads.rs")),
        ("wire", include_str!("wire.rs")),
    ]);
    for Table { document, table, rows, shown } in TABLES {
        println!("\n{document} · {table}");
        for (names, tests) in *shown {
            println!("  {:<60} {}", names.join(", "), tests.join(", "));
            assert!(!names.is_empty() && !tests.is_empty(), "{document} {table}");
            for test in *tests {
                let (file, name) = test.split_once("::").expect("file::test");
                let source = sources.get(file).unwrap_or_else(|| panic!("no such file: {test}"));
                assert!(source.contains(&format!("#[test]\nfn {name}()")), "no such test: {test}");
            }
        }
        let shown: usize = shown.iter().map(|(names, _)| names.len()).sum();
        assert_eq!(shown, *rows, "{document} · {table}: rows are left out");
    }
}
