//! The load test of a deployment before anything is sent: its bounds, its confirmation, and what the guide says of it.

use std::net::TcpListener;

use clap::Parser;

use crate::harness::Setup;
use crate::pages::{page, project};
use crate::target::{Arguments, run, run_typing, url};

/// A target that no connection may reach.
pub struct Untouched(TcpListener);

impl Untouched {
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        listener.set_nonblocking(true).expect("an option");
        Self(listener)
    }

    pub fn url(&self) -> String {
        format!("http://{}/files", self.0.local_addr().expect("an address"))
    }
}

impl Drop for Untouched {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let accepted = self.0.accept().map_err(|error| error.kind());
            assert!(matches!(accepted, Err(std::io::ErrorKind::WouldBlock)), "{accepted:?}");
        }
    }
}

#[test]
fn nothing_is_sent_before_it_is_confirmed() {
    let target = Untouched::new();
    for typed in ["\n", "yes\n", "", "127.0.0.2\n"] {
        let ended = run_typing(&target.url(), "", Some(typed), std::future::pending);
        for said in [
            &*target.url(),
            "at most 1000 files of 64.0 KiB and one of 64.0 KiB, 62.6 MiB in all",
            "paths that the gateway generates",
            "WeChat's quota",
            "Type 127.0.0.1 to begin: ",
        ] {
            assert!(ended.printed.contains(said), "no {said} in\n{}", ended.printed);
        }
        assert_eq!(ended.refused(), "nothing was sent: not confirmed");
    }
    let ended = run_typing(&target.url(), "", None, std::future::pending);
    assert_eq!(ended.refused(), "nothing was sent: without a terminal, this needs --yes");

    let world = Setup::new().start();
    let ended = run_typing(&url(&world), "--uploads 1", Some("127.0.0.1\n"), std::future::pending);
    assert_eq!(ended.good()["uploads"], 1);
}

#[test]
fn what_is_out_of_bounds_is_refused() {
    let target = Untouched::new();
    for (arguments, said) in [
        ("--connections 257", "257 is not in 1..=256"),
        ("--connections 0", "0 is not in 1..=256"),
        ("--seconds 601", "601 is not in 1..=600"),
        ("--uploads 100001", "100001 is not in 1..=100000"),
        ("--size 6GiB", "a file has 1 byte to 5.0 GiB"),
        ("--size large", "not a size such as 256KiB"),
        ("--size 0", "a file has 1 byte to"),
        ("--rate 0", "not a number of uploads a second"),
        ("--rate 10001", "not a number of uploads a second"),
        ("--rate NaN", "not a number of uploads a second"),
        ("--size 2GiB --uploads 5", "5 files of 2.0 GiB, and the check, are more than 10.0 GiB"),
        ("--rate 1000 --seconds 101", "101000 uploads are more than 100000"),
        ("--rate 400 --seconds 600 --size 1B", "240000 uploads are more than"),
        ("--size 1MiB --rate 100 --seconds 103", "10300 files of 1.0 MiB, and the check"),
        ("--prefix a//b", "--prefix: the path has an empty folder"),
        ("--ca /no/such/file", "--ca /no/such/file"),
        ("--check", "--check"),
        ("--record", "--record"),
        ("--peers nginx", "--peers"),
        ("--binary a=b", "--binary"),
        ("http-small", "[FILTERS]"),
    ] {
        let ended = run(&target.url(), arguments);
        let refused = ended.refused();
        assert!(refused.contains(said), "{arguments}: {refused}");
    }
    for (url, said) in [
        ("files.example.com", "must begin with http"),
        ("ftp://files.example.com", "must begin with http"),
        ("https://", "--target"),
        ("https://user:password@files.example.com", "a user, a query or a fragment"),
        ("https://files.example.com?ticket=x", "a user, a query or a fragment"),
    ] {
        let refused = run(url, "").refused();
        assert!(refused.contains(said), "{url}: {refused}");
    }
    // What `--key` without a target would be for is unknown.
    for arguments in [["relay", "--key", "x"], ["relay", "--size", "1MiB"]] {
        assert!(Arguments::try_parse_from(arguments).is_err());
    }
    // The bounds themselves.
    for (arguments, most) in [
        ("--seconds 600", "at most 100000 files of 64.0 KiB and one of 64.0 KiB, 6.1 GiB in all"),
        ("--size 2GiB", "at most 4 files of 2.0 GiB and one of 1.0 MiB, 8.0 GiB in all"),
        ("--size 1MiB --uploads 10239", "at most 10239 files of 1.0 MiB"),
        ("--rate 10000 --seconds 10", "10000 uploads/s for 10 s, 4 at once, at most 100000 files"),
        ("--connections 256 --uploads 100000 --size 1B", "for up to 600 s, 256 at once"),
    ] {
        let ended = run_typing(&target.url(), arguments, Some("no\n"), std::future::pending);
        assert!(ended.printed.contains(most), "{arguments}: {}", ended.printed);
    }
    let modes = std::fs::read_to_string(project().join("benches/relay.rs"));
    for mode in [
        "filters", "quick", "check", "rounds", "peers", "binary", "polling", "record", "guides",
        "list",
    ] {
        assert!(modes.as_ref().expect("a file").contains(&format!("\n    {mode}: ")), "{mode}");
    }
}

/// A text without its numbers.
fn without_numbers(text: &str) -> String {
    let words = text.split(|character: char| character.is_ascii_digit() || character == '.');
    words.filter(|word| !word.is_empty()).collect()
}

#[test]
fn the_guide_s_commands_are_understood_and_its_output_is_a_run_s() {
    let guide = page("performance");
    let commands: String = guide.open_blocks("sh").concat();
    let commands = commands.lines().filter_map(|line| {
        line.strip_prefix("cargo bench --bench relay -- --target https://files.example.com")
    });
    let commands: Vec<_> = commands.collect();
    assert_eq!(commands.len(), 3);
    for arguments in commands {
        // As `relay.rs` has it.
        let arguments = arguments.replace(" --json run.json", "");
        let target = "https://files.example.com";
        let ended = run_typing(target, &arguments, Some("no\n"), std::future::pending);
        assert!(ended.printed.contains("Type files.example.com to begin: "), "{arguments}");
        assert_eq!(ended.refused(), "nothing was sent: not confirmed");
    }

    let told = guide.open_blocks("text").concat();
    let world = Setup::new().set("cos.via", "form").start();
    let ended = run(&url(&world), "--uploads 10");
    let labels = |text: &str| -> Vec<_> {
        let rows = text.lines().filter(|line| line.starts_with('|'));
        rows.map(|line| line.split(" | ").next().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(labels(&told), labels(&ended.printed));
    let notes = |text: &str| without_numbers(text.split_once("\nEnded: ").expect("notes").1);
    let words = |text: &str| {
        let notes = notes(text);
        notes.split(" Request ids").next().unwrap_or_default().to_owned()
    };
    assert_eq!(words(&told), words(&ended.printed));
    ended.good();
}
