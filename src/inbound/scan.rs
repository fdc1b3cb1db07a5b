//! Finds the end of a part in a stream of chunks. It copies and buffers no byte: if a chunk ends in what may be the
//! start of a delimiter, those bytes are a prefix of the delimiter, so only their number is stored.

use bytes::{Buf, Bytes};
#[cfg(target_arch = "x86_64")]
use memchr::arch::{all::packedpair::Pair, x86_64::avx2::packedpair};
use memchr::memmem;
use memchr::memrchr;

/// At most this many boundaries that are not delimiters are counted in one part. Past it they are no longer searched
/// for, so content that consists of them costs no more than other content.
const MAX_LOOK_ALIKES: u8 = 64;

/// Looks for `\r\n--boundary`.
pub struct Scanner {
    delimiter: Bytes,
    finder: Finder,
    /// Finds the delimiter without its line break.
    opening_finder: Finder,
    /// Boundaries in the part so far that do not follow CRLF.
    look_alikes: u8,
    /// The length of the delimiter's prefix that the bytes so far end in.
    matched: usize,
    /// How many bytes of `matched` are not content: the line break that ended the head also begins a delimiter
    /// (RFC 2046 5.1.1: a part may have no body at all).
    implied: usize,
}

/// Searches for the delimiter's first and last byte at their distance, and compares the rest only where both match.
/// `memmem` compares byte by byte, so that content made of the boundary without one of its bytes costs three times as
/// much.
struct Finder {
    #[cfg(target_arch = "x86_64")]
    vector: Option<packedpair::Finder>,
}

impl Finder {
    fn new(delimiter: &[u8]) -> Self {
        Self {
            #[cfg(target_arch = "x86_64")]
            vector: u8::try_from(delimiter.len() - 1)
                .ok()
                .and_then(|last| Pair::with_indices(delimiter, 0, last))
                .and_then(|pair| packedpair::Finder::with_pair(delimiter, pair)),
        }
    }

    fn find(&self, chunk: &[u8], delimiter: &[u8]) -> Option<usize> {
        #[cfg(target_arch = "x86_64")]
        if let Some(vector) = &self.vector
            && chunk.len() >= vector.min_haystack_len()
        {
            return vector.find(chunk, delimiter);
        }
        // Other processors, and chunks shorter than two vectors.
        memmem::find(chunk, delimiter)
    }
}

/// What the next bytes are.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Content of the part; never empty.
    Content(Bytes),
    /// The delimiter; the bytes after it are left in the chunk.
    Delimiter,
    /// The chunk is used up; the next one is needed.
    More,
}

impl Scanner {
    /// `boundary` as in the Content-Type. A header's value has no line break, so the delimiter's only one is at its
    /// start: after a failed match, no new match can begin within the bytes that matched.
    pub fn new(boundary: impl AsRef<[u8]>) -> Self {
        let delimiter = Bytes::from([b"\r\n--", boundary.as_ref()].concat());
        let (finder, opening_finder) = (Finder::new(&delimiter), Finder::new(&delimiter[2..]));
        Self { delimiter, finder, opening_finder, look_alikes: 0, matched: 0, implied: 0 }
    }

    /// `--boundary`, which begins a form.
    pub fn opening(&self) -> &[u8] {
        &self.delimiter[2..]
    }

    /// The boundary as in the Content-Type.
    pub fn boundary(&self) -> &[u8] {
        &self.delimiter[4..]
    }

    /// Begins a part's content. Called after the part's head, where a line begins.
    pub fn at_line_start(&mut self) {
        self.matched = 2;
        self.implied = 2;
        self.look_alikes = 0;
    }

    /// How many boundaries that are not delimiters were found within single chunks of the part; `None` once there are
    /// too many to search for.
    pub fn look_alikes(&self) -> Option<u8> {
        (self.look_alikes < MAX_LOOK_ALIKES).then_some(self.look_alikes)
    }

    /// The length of `\r\n--boundary--`, the closing delimiter.
    pub fn closing_len(&self) -> u64 {
        self.delimiter.len() as u64 + 2
    }

    /// Takes the next content or the delimiter from the front of `chunk`.
    pub fn step(&mut self, chunk: &mut Bytes) -> Step {
        if chunk.is_empty() {
            return Step::More;
        }
        if self.matched > 0 {
            let expected = &self.delimiter[self.matched..];
            let same = expected.iter().zip(chunk.iter()).take_while(|(a, b)| a == b).count();
            if same == expected.len() {
                chunk.advance(same);
                self.reset();
                return Step::Delimiter;
            }
            if same == chunk.len() {
                self.matched += same;
                chunk.clear();
                return Step::More;
            }
            let carried = self.delimiter.slice(self.implied..self.matched);
            self.reset();
            if !carried.is_empty() {
                return Step::Content(carried);
            }
        }
        match self.find(chunk) {
            Some(0) => {
                chunk.advance(self.delimiter.len());
                Step::Delimiter
            }
            Some(at) => Step::Content(chunk.split_to(at)),
            None => {
                self.matched = self.partial_match(chunk);
                let content = chunk.split_to(chunk.len() - self.matched);
                chunk.clear();
                if content.is_empty() { Step::More } else { Step::Content(content) }
            }
        }
    }

    /// The position of the first complete delimiter in `chunk`.
    fn find(&mut self, chunk: &[u8]) -> Option<usize> {
        let mut from = 0;
        while self.look_alikes < MAX_LOOK_ALIKES {
            let at = from + self.opening_finder.find(&chunk[from..], self.opening())?;
            if chunk[..at].ends_with(b"\r\n") {
                return Some(at - 2);
            }
            self.look_alikes += 1;
            from = at + 1;
        }
        self.finder.find(&chunk[from..], &self.delimiter).map(|at| from + at)
    }

    /// How many bytes at the end of `chunk` may be the start of a delimiter. A delimiter starts with its only `\r`, so
    /// only the chunk's last `\r` matters.
    fn partial_match(&self, chunk: &[u8]) -> usize {
        let tail = &chunk[chunk.len().saturating_sub(self.delimiter.len() - 1)..];
        match memrchr(b'\r', tail) {
            Some(at) if self.delimiter.starts_with(&tail[at..]) => tail.len() - at,
            _ => 0,
        }
    }

    fn reset(&mut self) {
        self.matched = 0;
        self.implied = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The content up to the delimiter, and the bytes after it.
    fn scan(boundary: &str, chunks: &[&[u8]]) -> (Vec<u8>, Option<Vec<u8>>) {
        let mut scanner = Scanner::new(boundary);
        let mut content = Vec::new();
        for (index, chunk) in chunks.iter().enumerate() {
            let mut chunk = Bytes::copy_from_slice(chunk);
            loop {
                match scanner.step(&mut chunk) {
                    Step::Content(bytes) => content.extend_from_slice(&bytes),
                    Step::More => break,
                    Step::Delimiter => {
                        let mut rest = chunk.to_vec();
                        chunks[index + 1..].iter().for_each(|later| rest.extend_from_slice(later));
                        return (content, Some(rest));
                    }
                }
            }
        }
        (content, None)
    }

    #[test]
    fn a_part_without_a_body_ends_at_once() {
        let mut scanner = Scanner::new("b");
        scanner.at_line_start();
        let mut chunk = Bytes::from_static(b"--b--");
        assert_eq!(scanner.step(&mut chunk), Step::Delimiter);
        assert_eq!(&chunk[..], b"--");
    }

    #[test]
    fn look_alikes_are_counted_up_to_a_limit() {
        let mut scanner = Scanner::new("b");
        scanner.at_line_start();
        for count in 1..MAX_LOOK_ALIKES {
            let mut chunk = Bytes::from_static(b"x\n--b");
            assert_eq!(scanner.step(&mut chunk), Step::Content(Bytes::from_static(b"x\n--b")));
            assert_eq!(scanner.look_alikes(), Some(count));
        }
        let mut chunk = Bytes::from_static(b"x--b--b\r\n--b");
        assert_eq!(scanner.step(&mut chunk), Step::Content(Bytes::from_static(b"x--b--b")));
        assert_eq!(scanner.look_alikes(), None);
        assert_eq!(scanner.step(&mut chunk), Step::Delimiter);
        scanner.at_line_start();
        assert_eq!(scanner.look_alikes(), Some(0));
    }

    #[test]
    fn the_implied_line_break_is_not_content() {
        let mut scanner = Scanner::new("b");
        scanner.at_line_start();
        assert_eq!(scanner.step(&mut Bytes::from_static(b"--")), Step::More);
        let mut chunk = Bytes::from_static(b"x");
        assert_eq!(scanner.step(&mut chunk), Step::Content(Bytes::from_static(b"--")));
        assert_eq!(scanner.step(&mut chunk), Step::Content(Bytes::from_static(b"x")));
    }

    proptest! {
        /// Compares with a search in the whole input, on bytes that are made of parts of the delimiter.
        #[test]
        fn chunk_boundaries_do_not_matter(
            picks in proptest::collection::vec(0usize..7, 0..120),
            cuts in proptest::collection::vec(0usize..600, 0..6),
        ) {
            let alphabet: [&[u8]; 7] = [b"\r", b"\n", b"-", b"\r\n--", b"\r\n--ab", b"\r\n--abc", b"x"];
            let whole: Vec<u8> = picks.iter().flat_map(|pick| alphabet[*pick].iter().copied()).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(whole.len())).collect();
            cuts.sort_unstable();
            let mut chunks = Vec::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([whole.len()]) {
                chunks.push(&whole[from..cut]);
                from = cut;
            }
            let (content, rest) = scan("abc", &chunks);
            match memchr::memmem::find(&whole, b"\r\n--abc") {
                Some(at) => {
                    prop_assert_eq!(&content, &whole[..at]);
                    prop_assert_eq!(rest.as_deref(), Some(&whole[at + 7..]));
                }
                None => {
                    prop_assert!(rest.is_none());
                    prop_assert!(whole.starts_with(&content) && whole.len() - content.len() < 7);
                }
            }
        }
    }
}
