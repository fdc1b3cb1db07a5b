//! The scanner, on any bytes in any chunks, compared with a search in the whole input.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tcb_upload_gateway::inbound::scan::{Scanner, Step};

// The first byte is the number of cuts that follow, one byte each; the rest is scanned.
fuzz_target!(|input: &[u8]| {
    let Some((&count, rest)) = input.split_first() else { return };
    let (cuts, body) = rest.split_at(rest.len().min(usize::from(count % 8)));
    let mut cuts: Vec<_> = cuts.iter().map(|cut| usize::from(*cut).min(body.len())).collect();
    cuts.sort_unstable();
    cuts.push(body.len());

    let mut scanner = Scanner::new("ab");
    let mut content = Vec::new();
    let mut from = 0;
    for cut in cuts {
        let mut chunk = Bytes::copy_from_slice(&body[from..cut]);
        from = cut;
        loop {
            match scanner.step(&mut chunk) {
                Step::Content(bytes) => {
                    assert!(!bytes.is_empty());
                    content.extend_from_slice(&bytes);
                }
                Step::More => break,
                Step::Delimiter => {
                    let at = memchr::memmem::find(body, b"\r\n--ab");
                    assert_eq!(at, Some(content.len()));
                    assert_eq!(&body[..content.len()], &content);
                    assert_eq!(cut - chunk.len(), content.len() + 6);
                    return;
                }
            }
        }
    }
    assert_eq!(memchr::memmem::find(body, b"\r\n--ab"), None);
    assert!(body.starts_with(&content) && body.len() - content.len() < 6);
});
