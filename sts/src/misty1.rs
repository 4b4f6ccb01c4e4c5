//! EA11: the 64-bit block cipher MISTY1 with 8 rounds and a 128-bit key, as in RFC 2994.
//!
//! Table look-ups take a time that depends on the cache; see the remark in `sta`.

#![cfg_attr(
    not(test),
    expect(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::indexing_slicing,
        reason = "a cipher: every index is masked to its table's length"
    )
)]

use zeroize::{Zeroize, ZeroizeOnDrop};

/// MISTY1 with its key expanded.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(crate) struct Misty1 {
    key: [u16; 8],
    mixed: [u16; 8],
}

impl Misty1 {
    /// Expands `key`.
    pub(crate) fn new(key: &[u8; 16]) -> Self {
        let (pairs, _) = key.as_chunks::<2>();
        let mut words = [0; 8];
        for (word, pair) in words.iter_mut().zip(pairs) {
            *word = u16::from_be_bytes(*pair);
        }
        let mut mixed = [0; 8];
        for (i, word) in mixed.iter_mut().enumerate() {
            *word = fi(words[i & 7], words[(i + 1) & 7]);
        }
        Self { key: words, mixed }
    }

    /// Encrypts a block.
    pub(crate) fn encrypt(&self, block: u64) -> u64 {
        let (mut d0, mut d1) = halves(block);
        for round in [0, 2, 4, 6] {
            d0 = self.fl(d0, round);
            d1 = self.fl(d1, round + 1);
            d1 ^= self.fo(d0, round);
            d0 ^= self.fo(d1, round + 1);
        }
        whole(self.fl(d1, 9), self.fl(d0, 8))
    }

    /// Decrypts a block.
    pub(crate) fn decrypt(&self, block: u64) -> u64 {
        let (d1, d0) = halves(block);
        let (mut d0, mut d1) = (self.fl_inverse(d0, 8), self.fl_inverse(d1, 9));
        for round in [6, 4, 2, 0] {
            d0 ^= self.fo(d1, round + 1);
            d1 ^= self.fo(d0, round);
            d0 = self.fl_inverse(d0, round);
            d1 = self.fl_inverse(d1, round + 1);
        }
        whole(d0, d1)
    }

    #[inline]
    fn fo(&self, input: u32, k: usize) -> u32 {
        let [mut t0, mut t1] = split(input);
        t0 = fi(t0 ^ self.key[k & 7], self.mixed[(k + 5) & 7]) ^ t1;
        t1 = fi(t1 ^ self.key[(k + 2) & 7], self.mixed[(k + 1) & 7]) ^ t0;
        t0 = fi(t0 ^ self.key[(k + 7) & 7], self.mixed[(k + 3) & 7]) ^ t1;
        t1 ^= self.key[(k + 4) & 7];
        join(t1, t0)
    }

    #[inline]
    fn fl(&self, input: u32, k: usize) -> u32 {
        let [mut left, mut right] = split(input);
        let (and, or) = self.fl_keys(k);
        right ^= left & and;
        left ^= right | or;
        join(left, right)
    }

    #[inline]
    fn fl_inverse(&self, input: u32, k: usize) -> u32 {
        let [mut left, mut right] = split(input);
        let (and, or) = self.fl_keys(k);
        left ^= right | or;
        right ^= left & and;
        join(left, right)
    }

    #[inline]
    fn fl_keys(&self, k: usize) -> (u16, u16) {
        let j = k / 2;
        if k.is_multiple_of(2) {
            (self.key[j & 7], self.mixed[(j + 6) & 7])
        } else {
            (self.mixed[(j + 2) & 7], self.key[(j + 4) & 7])
        }
    }
}

#[inline]
fn fi(input: u16, key: u16) -> u16 {
    let mut d9 = input >> 7;
    let mut d7 = input & 0x7F;
    d9 = S9[usize::from(d9 & 0x1FF)] ^ d7;
    d7 = u16::from(S7[usize::from(d7)]) ^ (d9 & 0x7F);
    d7 ^= key >> 9;
    d9 ^= key & 0x1FF;
    d9 = S9[usize::from(d9 & 0x1FF)] ^ d7;
    (d7 << 9) | d9
}

const fn halves(block: u64) -> (u32, u32) {
    ((block >> 32) as u32, block as u32)
}

const fn whole(high: u32, low: u32) -> u64 {
    ((high as u64) << 32) | low as u64
}

const fn split(word: u32) -> [u16; 2] {
    [(word >> 16) as u16, word as u16]
}

const fn join(high: u16, low: u16) -> u32 {
    ((high as u32) << 16) | low as u32
}

/// S7 of RFC 2994.
static S7: [u8; 128] = [
    27, 50, 51, 90, 59, 16, 23, 84, 91, 26, 114, 115, 107, 44, 102, 73, 31, 36, 19, 108, 55, 46,
    63, 74, 93, 15, 64, 86, 37, 81, 28, 4, 11, 70, 32, 13, 123, 53, 68, 66, 43, 30, 65, 20, 75,
    121, 21, 111, 14, 85, 9, 54, 116, 12, 103, 83, 40, 10, 126, 56, 2, 7, 96, 41, 25, 18, 101, 47,
    48, 57, 8, 104, 95, 120, 42, 76, 100, 69, 117, 61, 89, 72, 3, 87, 124, 79, 98, 60, 29, 33, 94,
    39, 106, 112, 77, 58, 1, 109, 110, 99, 24, 119, 35, 5, 38, 118, 0, 49, 45, 122, 127, 97, 80,
    34, 17, 6, 71, 22, 82, 78, 113, 62, 105, 67, 52, 92, 88, 125,
];

/// S9 of RFC 2994.
static S9: [u16; 512] = [
    451, 203, 339, 415, 483, 233, 251, 53, 385, 185, 279, 491, 307, 9, 45, 211, 199, 330, 55, 126,
    235, 356, 403, 472, 163, 286, 85, 44, 29, 418, 355, 280, 331, 338, 466, 15, 43, 48, 314, 229,
    273, 312, 398, 99, 227, 200, 500, 27, 1, 157, 248, 416, 365, 499, 28, 326, 125, 209, 130, 490,
    387, 301, 244, 414, 467, 221, 482, 296, 480, 236, 89, 145, 17, 303, 38, 220, 176, 396, 271,
    503, 231, 364, 182, 249, 216, 337, 257, 332, 259, 184, 340, 299, 430, 23, 113, 12, 71, 88, 127,
    420, 308, 297, 132, 349, 413, 434, 419, 72, 124, 81, 458, 35, 317, 423, 357, 59, 66, 218, 402,
    206, 193, 107, 159, 497, 300, 388, 250, 406, 481, 361, 381, 49, 384, 266, 148, 474, 390, 318,
    284, 96, 373, 463, 103, 281, 101, 104, 153, 336, 8, 7, 380, 183, 36, 25, 222, 295, 219, 228,
    425, 82, 265, 144, 412, 449, 40, 435, 309, 362, 374, 223, 485, 392, 197, 366, 478, 433, 195,
    479, 54, 238, 494, 240, 147, 73, 154, 438, 105, 129, 293, 11, 94, 180, 329, 455, 372, 62, 315,
    439, 142, 454, 174, 16, 149, 495, 78, 242, 509, 133, 253, 246, 160, 367, 131, 138, 342, 155,
    316, 263, 359, 152, 464, 489, 3, 510, 189, 290, 137, 210, 399, 18, 51, 106, 322, 237, 368, 283,
    226, 335, 344, 305, 327, 93, 275, 461, 121, 353, 421, 377, 158, 436, 204, 34, 306, 26, 232, 4,
    391, 493, 407, 57, 447, 471, 39, 395, 198, 156, 208, 334, 108, 52, 498, 110, 202, 37, 186, 401,
    254, 19, 262, 47, 429, 370, 475, 192, 267, 470, 245, 492, 269, 118, 276, 427, 117, 268, 484,
    345, 84, 287, 75, 196, 446, 247, 41, 164, 14, 496, 119, 77, 378, 134, 139, 179, 369, 191, 270,
    260, 151, 347, 352, 360, 215, 187, 102, 462, 252, 146, 453, 111, 22, 74, 161, 313, 175, 241,
    400, 10, 426, 323, 379, 86, 397, 358, 212, 507, 333, 404, 410, 135, 504, 291, 167, 440, 321,
    60, 505, 320, 42, 341, 282, 417, 408, 213, 294, 431, 97, 302, 343, 476, 114, 394, 170, 150,
    277, 239, 69, 123, 141, 325, 83, 95, 376, 178, 46, 32, 469, 63, 457, 487, 428, 68, 56, 20, 177,
    363, 171, 181, 90, 386, 456, 468, 24, 375, 100, 207, 109, 256, 409, 304, 346, 5, 288, 443, 445,
    224, 79, 214, 319, 452, 298, 21, 6, 255, 411, 166, 67, 136, 80, 351, 488, 289, 115, 382, 188,
    194, 201, 371, 393, 501, 116, 460, 486, 424, 405, 31, 65, 13, 442, 50, 61, 465, 128, 168, 87,
    441, 354, 328, 217, 261, 98, 122, 33, 511, 274, 264, 448, 169, 285, 432, 422, 205, 243, 92,
    258, 91, 473, 324, 502, 173, 165, 58, 459, 310, 383, 70, 225, 30, 477, 230, 311, 506, 389, 140,
    143, 64, 437, 190, 120, 0, 172, 272, 350, 292, 2, 444, 162, 234, 112, 508, 278, 348, 76, 450,
];

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: u128 = 0x0011_2233_4455_6677_8899_AABB_CCDD_EEFF;

    /// The vectors of RFC 2994: two blocks and the mixed half of the expanded key.
    #[test]
    fn rfc_2994() {
        let cipher = Misty1::new(&KEY.to_be_bytes());
        let mixed = [0xCF51, 0x8E7F, 0x5E29, 0x673A, 0xCDBC, 0x07D6, 0xBF35, 0x5E11];
        assert_eq!(cipher.mixed, mixed);
        for (plain, encrypted) in [
            (0x0123_4567_89AB_CDEF, 0x8B1D_A5F5_6AB3_D07C),
            (0xFEDC_BA98_7654_3210, 0x04B6_8240_B13B_E95D),
        ] {
            assert_eq!(cipher.encrypt(plain), encrypted);
            assert_eq!(cipher.decrypt(encrypted), plain);
        }
    }

    /// What its authors say of the two tables: permutations, of degree 3 and 2. One wrong entry
    /// would raise the degree to 6 or 8.
    #[test]
    fn tables_have_the_algebraic_degree_of_the_design() {
        let degree = |table: &[u16]| {
            let mut terms = table.to_vec();
            for bit in (0..).map(|shift| 1 << shift).take_while(|bit| *bit < table.len()) {
                for index in (0..table.len()).filter(|index| index & bit != 0) {
                    terms[index] ^= terms[index ^ bit];
                }
            }
            (0..table.len()).filter(|index| terms[*index] != 0).map(|i| i.count_ones()).max()
        };
        let s7: Vec<u16> = S7.iter().map(|value| u16::from(*value)).collect();
        for (table, want) in [(s7.as_slice(), 3), (S9.as_slice(), 2)] {
            let mut sorted = table.to_vec();
            sorted.sort_unstable();
            assert!(sorted.iter().enumerate().all(|(index, value)| index == usize::from(*value)));
            assert_eq!(degree(table), Some(want));
        }
    }

    proptest::proptest! {
        #[test]
        fn decrypt_is_the_inverse(key: [u8; 16], block: u64) {
            let cipher = Misty1::new(&key);
            proptest::prop_assert_eq!(cipher.decrypt(cipher.encrypt(block)), block);
        }
    }
}
