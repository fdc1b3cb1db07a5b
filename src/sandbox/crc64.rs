//! CRC-64/XZ, and the CRC of two joined texts from the CRCs of both: COS knows the CRC of an object of many parts
//! without reading it again.

use crc::{CRC_64_XZ, Crc, Digest, Table};
use crc_fast::CrcAlgorithm;

static CRC64: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_XZ);

pub type Crc64 = Digest<'static, u64, Table<16>>;

pub fn digest() -> Crc64 {
    CRC64.digest()
}

/// The CRC of a text with the CRC `first` followed by one of `length` bytes with the CRC `second`.
pub fn joined(first: u64, second: u64, length: u64) -> u64 {
    crc_fast::checksum_combine(CrcAlgorithm::Crc64Xz, first, second, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_crcs_are_those_of_the_joined_texts() {
        let text: Vec<u8> = (0..5000_u32).map(|number| ((number * 7919) >> 3) as u8).collect();
        for at in [0, 1, 8, 777, 4999, 5000] {
            let (first, second) = text.split_at(at);
            let length = second.len() as u64;
            let crc = joined(CRC64.checksum(first), CRC64.checksum(second), length);
            assert_eq!(crc, CRC64.checksum(&text), "{at}");
        }
    }
}
