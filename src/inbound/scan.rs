//! Finds the end of a part in the bytes as they come. Copies nothing and keeps no byte: what may be the beginning of
//! a delimiter at a chunk's end is by definition a prefix of the delimiter, so its length is all there is to remember.

use bytes::{Buf, Bytes};
#[cfg(target_arch = "x86_64")]
use memchr::arch::{all::packedpair::Pair, x86_64::avx2::packedpair};
use memchr::memmem;
use memchr::memrchr;

/// So many boundaries that are no delimiters are told of, in one part; bytes made of them cost no more than others.
const LOOK_ALIKES: u8 = 64;

/// Looks for `\r\n--boundary`.
pub struct Scanner {
    delimiter: Bytes,
    finder: Finder,
    /// Of the delimiter without its line break.
    opening_finder: Finder,
    /// Boundaries in the part so far that are not behind CRLF.
    look_alikes: u8,
    /// How much of the delimiter the bytes so far end in.
    matched: usize,
    /// How much of `matched` was never content: the line break that ended the head also begins a delimiter
    /// (RFC 2046 5.1.1: a part may have no body at all).
    implied: usize,
}

/// Looks for the delimiter's first and last byte in their distance, and compares the rest only where both are.
/// `memmem` compares byte by byte, and bodies made of all of the boundary but one byte cost three times as much.
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
        // On other processors, and in chunks shorter than two vectors.
        memmem::find(chunk, delimiter)
    }
}

/// What the next bytes are.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Content of the part; never empty.
    Content(Bytes),
    /// The delimiter; the bytes behind it are left in the chunk.
    Delimiter,
    /// The chunk is used up.
    More,
}

impl Scanner {
    /// `boundary` as in the Content-Type. It cannot hold a line break (it comes from a header), which is what makes
    /// a failed match easy: a new one cannot begin inside the bytes that matched.
    pub fn new(boundary: impl AsRef<[u8]>) -> Self {
        let delimiter = Bytes::from([b"\r\n--", boundary.as_ref()].concat());
        let (finder, opening_finder) = (Finder::new(&delimiter), Finder::new(&delimiter[2..]));
        Self { delimiter, finder, opening_finder, look_alikes: 0, matched: 0, implied: 0 }
    }

    /// `--boundary`, which begins a form.
    pub fn opening(&self) -> &[u8] {
        &self.delimiter[2..]
    }

    /// As in the Content-Type.
    pub fn boundary(&self) -> &[u8] {
        &self.delimiter[4..]
    }

    /// To be called where a line begins: behind a part's head.
    pub fn at_line_start(&mut self) {
        self.matched = 2;
        self.implied = 2;
        self.look_alikes = 0;
    }

    /// How many boundaries that are no delimiters were found within chunks of the part; `None` when they are too many
    /// to be looked for.
    pub fn look_alikes(&self) -> Option<u8> {
        (self.look_alikes < LOOK_ALIKES).then_some(self.look_alikes)
    }

    /// Length of `\r\n--boundary--`, the delimiter that closes a form.
    pub fn closing_len(&self) -> u64 {
        self.delimiter.len() as u64 + 2
    }

    /// Takes the next content or the delimiter from the front of `chunk`.
    pub fn step(&mut self, chunk: &mut Bytes) -> Step {
        if chunk.is_empty() {
            return Step::More;
        }
        if self.matched > 0 {
            let wanted = &self.delimiter[self.matched..];
            let same = wanted.iter().zip(chunk.iter()).take_while(|(a, b)| a == b).count();
            if same == wanted.len() {
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
                self.matched = self.begun(chunk);
                let content = chunk.split_to(chunk.len() - self.matched);
                chunk.clear();
                if content.is_empty() { Step::More } else { Step::Content(content) }
            }
        }
    }

    /// The first delimiter that is whole in `chunk`.
    fn find(&mut self, chunk: &[u8]) -> Option<usize> {
        let mut from = 0;
        while self.look_alikes < LOOK_ALIKES {
            let at = from + self.opening_finder.find(&chunk[from..], self.opening())?;
            if chunk[..at].ends_with(b"\r\n") {
                return Some(at - 2);
            }
            self.look_alikes += 1;
            from = at + 1;
        }
        self.finder.find(&chunk[from..], &self.delimiter).map(|at| from + at)
    }

    /// How many bytes at the end of `chunk` may be the beginning of a delimiter. It begins with its only `\r`, so the
    /// last one decides.
    fn begun(&self, chunk: &[u8]) -> usize {
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

    /// Content up to the delimiter, and what is left behind it.
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
        for count in 1..LOOK_ALIKES {
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
        /// Against the plain reference (find the delimiter in the whole), on bytes made of the delimiter's own.
        #[test]
        fn splits_do_not_matter(
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
