//! CRC-64/XZ, and the CRC of two joined texts from the CRCs of both: COS knows the CRC of an object of many parts
//! without reading it again.

use crc::{CRC_64_XZ, Crc, Digest, Table};

static CRC64: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_XZ);

/// The polynomial of CRC-64/XZ, reflected. A polynomial's highest bit is its constant term.
const POLYNOMIAL: u64 = 0xc96c_5795_d787_0f42;
const ONE: u64 = 1 << 63;
/// x^8: a factor for each byte that is appended.
const ONE_BYTE: u64 = ONE >> 8;

pub type Crc64 = Digest<'static, u64, Table<16>>;

pub fn digest() -> Crc64 {
    CRC64.digest()
}

/// The CRC of a text with the CRC `first` followed by one of `length` bytes with the CRC `second`.
pub fn joined(first: u64, second: u64, length: u64) -> u64 {
    multiplied(first, power(ONE_BYTE, length)) ^ second
}

fn power(mut base: u64, mut exponent: u64) -> u64 {
    let mut product = ONE;
    while exponent > 0 {
        if exponent & 1 == 1 {
            product = multiplied(product, base);
        }
        base = multiplied(base, base);
        exponent >>= 1;
    }
    product
}

/// The product of two polynomials modulo [`POLYNOMIAL`].
fn multiplied(first: u64, mut second: u64) -> u64 {
    let mut product = 0;
    for bit in (0..64).rev() {
        if first >> bit & 1 == 1 {
            product ^= second;
        }
        second = (second >> 1) ^ if second & 1 == 1 { POLYNOMIAL } else { 0 };
    }
    product
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
