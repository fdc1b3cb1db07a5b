//! Keys, on any text: an accepted key obeys every rule, and parsing it again gives the same key.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tcb_upload_gateway::key::Key;

fuzz_target!(|input: &str| {
    if let Ok(key) = Key::parse(input) {
        let text = key.as_str();
        assert!(!text.is_empty() && text.len() <= 850);
        assert!(!text.starts_with('/') && !text.ends_with('/') && !text.contains("//"));
        assert!(text.split('/').all(|segment| segment != "." && segment != ".."));
        assert!(
            !text.contains(char::is_control) && !text.contains(['$', '\\', '%', '#', '<', '>'])
        );
        assert_eq!(Key::parse(text).as_ref(), Ok(&key));
    }
});
