//! Quotas.

use super::{DIGITS, keys, with_file};
use crate::settings::QuotaPer;

#[test]
fn a_quota_is_by_user_and_named_by_policies() {
    let toml = format!(
        "[quota.daily]\nbytes_per_day = '200MiB'\nfiles_per_day = 500\n\
         [quota.panel]\nper = 'client'\nfiles = 7\n\
         [auth.jwt]\nquota = 'daily'\n[auth.keys.panel]\nsha256 = '{DIGITS}'\nquota = 'panel'\n"
    );
    let settings = with_file(&toml, &[]).expect("no faults");
    let (daily, panel) = (&settings.quotas["daily"], &settings.quotas["panel"]);
    assert_eq!(
        (daily.per, daily.bytes_per_day, daily.files_per_day),
        (QuotaPer::Sub, Some(200 << 20), Some(500))
    );
    assert!(!daily.has_total() && panel.has_total());
    assert_eq!((panel.per, panel.files), (QuotaPer::Client, Some(7)));
    let (jwt, key) = (&settings.auth.jwt.policy, &settings.auth.keys["panel"].policy);
    assert_eq!((jwt.quota.as_deref(), key.quota.as_deref()), (Some("daily"), Some("panel")));
    assert!(settings.warnings().iter().any(|warning| warning.starts_with("quota.*.bytes")));
    let described = settings.describe();
    let again = with_file(&described.replace("\"***\"", &format!("\"{DIGITS}\"")), &[]);
    assert_eq!(again.expect("no faults").quotas, settings.quotas);
}

#[test]
fn a_quota_without_limits_and_one_that_does_not_exist_are_refused() {
    let toml = "[quota.none]\nper = 'sub'\n[quota.Bad]\nbytes = 1\n[quota.zero]\nbytes_per_day = 0\nper = 'ip'\n\
                [auth.wx]\nquota = 'daily'\n";
    let expected =
        ["auth.wx.quota", "quota.Bad", "quota.none", "quota.zero.bytes_per_day", "quota.zero.per"];
    assert_eq!(keys(&with_file(toml, &[])), expected);
}
