//! EA07, "STA": a 64-bit substitution-permutation cipher of 16 rounds whose tables are a value.
//!
//! Bit 0 is the least significant, nibble i is bits 4i+3..=4i.
//!
//! ```text
//! encrypt   k = (¬key) rotated right by 12; 16 times:
//!             nibble i of the state goes through S1 when bit 3 of nibble i of k is 0, else S2;
//!             bit i of the state moves to position P[i];   k is rotated left by 1
//! decrypt   the same backwards: P⁻¹, then S2⁻¹ or S1⁻¹ by bit 0 of nibble i of the bare key,
//!             which is rotated right by 1
//! ```
//! [`Sta`] folds substitution and permutation into one table of 16 × 32 words (4 KiB, fits the
//! first-level cache): a round is 16 independent loads. Table loads take a time that depends on
//! the cache; who can measure that on the same machine is outside what a software module defends
//! against.

#![cfg_attr(
    not(test),
    expect(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::indexing_slicing,
        reason = "a cipher: every index is masked to its table's length, and the tables are \
                  checked to be permutations when they are made"
    )
)]

use thiserror::Error;

/// Why tables are refused.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("table {0} is no permutation")]
pub struct StaTablesError(&'static str);

/// The substitution and permutation tables of STA.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StaTables {
    pub(crate) s1: [u8; 16],
    pub(crate) s2: [u8; 16],
    pub(crate) p: [u8; 64],
}

impl StaTables {
    /// The sample set printed in the standard, for testing the cipher. No meter accepts it.
    pub const SAMPLE: Self = Self {
        s1: [12, 10, 8, 4, 3, 15, 0, 2, 14, 1, 5, 13, 6, 9, 7, 11],
        s2: [6, 9, 7, 4, 3, 10, 12, 14, 2, 13, 1, 15, 0, 11, 8, 5],
        p: [
            29, 27, 34, 9, 16, 62, 55, 2, 40, 49, 38, 25, 33, 61, 30, 23, 1, 41, 21, 57, 42, 15, 5,
            58, 19, 53, 22, 17, 48, 28, 24, 39, 3, 60, 36, 14, 11, 52, 54, 12, 31, 51, 10, 26, 0,
            45, 37, 43, 44, 6, 59, 4, 7, 35, 56, 50, 13, 18, 32, 47, 46, 63, 20, 8,
        ],
    };

    /// A set from its three tables: two substitutions of nibbles and where each bit goes.
    ///
    /// # Errors
    /// [`StaTablesError`] names the first that is no permutation.
    pub fn new(s1: [u8; 16], s2: [u8; 16], p: [u8; 64]) -> Result<Self, StaTablesError> {
        if !is_permutation(&s1) {
            return Err(StaTablesError("S1"));
        }
        if !is_permutation(&s2) {
            return Err(StaTablesError("S2"));
        }
        if !is_permutation(&p) {
            return Err(StaTablesError("P"));
        }
        Ok(Self { s1, s2, p })
    }
}

/// For each nibble position, the word that replaces each of 16 values, for both key bits.
type Layer = [[u64; 32]; 16];

/// The cipher with its tables folded.
pub struct Sta {
    forward: Layer,
    unpermute: Layer,
    backward: Layer,
    unsubstitute: Layer,
}

impl Sta {
    /// Folds `tables`. Takes 100,000 steps or so: keep the result.
    #[must_use]
    pub const fn new(tables: &StaTables) -> Self {
        let StaTables { s1, s2, p } = tables;
        // The key is complemented for encryption only, so its bit chooses the other table here.
        let (d1, d2, back) = (inverse(s2), inverse(s1), inverse(p));
        Self {
            forward: fold(s1, s2, p),
            unpermute: fold(&identity(), &identity(), &back),
            backward: fold(&d1, &d2, &back),
            unsubstitute: fold(&d1, &d2, &identity()),
        }
    }

    /// The cipher with the sample tables of the standard.
    #[must_use]
    pub const fn sample() -> &'static Self {
        static SAMPLE: Sta = Sta::new(&StaTables::SAMPLE);
        &SAMPLE
    }

    /// The cipher with the tables of real meters.
    #[cfg(feature = "production-tables")]
    #[must_use]
    pub const fn production() -> &'static Self {
        static PRODUCTION: Sta = Sta::new(&crate::sta_production::PRODUCTION);
        &PRODUCTION
    }

    /// Encrypts a block.
    #[must_use]
    pub fn encrypt(&self, key: u64, block: u64) -> u64 {
        let mut key = (!key).rotate_right(12);
        let mut state = block;
        for _round in 0..ROUNDS {
            state = look_up(&self.forward, state, key >> 3);
            key = key.rotate_left(1);
        }
        state
    }

    /// Decrypts a block.
    #[must_use]
    pub fn decrypt(&self, key: u64, block: u64) -> u64 {
        let mut key = key;
        let mut state = look_up(&self.unpermute, block, 0);
        for _round in 1..ROUNDS {
            state = look_up(&self.backward, state, key);
            key = key.rotate_right(1);
        }
        look_up(&self.unsubstitute, state, key)
    }
}

impl std::fmt::Debug for Sta {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sta")
    }
}

/// Replaces every nibble of `state`; bit 4i of `selector` chooses the half of the table.
#[inline]
fn look_up(layer: &Layer, state: u64, selector: u64) -> u64 {
    let (mut state, mut chosen) = (state, selector & 0x1111_1111_1111_1111);
    let mut out = 0;
    for words in layer {
        let index = (state & 0x0F) | ((chosen & 1) << 4);
        out |= words[index as usize];
        state >>= 4;
        chosen >>= 4;
    }
    out
}

const fn fold(zero: &[u8; 16], one: &[u8; 16], p: &[u8; 64]) -> Layer {
    let mut layer = [[0; 32]; 16];
    let mut position = 0;
    while position < 16 {
        let mut nibble = 0;
        while nibble < 16 {
            layer[position][nibble] = permute((zero[nibble] as u64) << (4 * position), p);
            layer[position][16 + nibble] = permute((one[nibble] as u64) << (4 * position), p);
            nibble += 1;
        }
        position += 1;
    }
    layer
}

const fn permute(word: u64, p: &[u8; 64]) -> u64 {
    let mut out = 0;
    let mut bit = 0;
    while bit < 64 {
        out |= (word >> bit & 1) << p[bit];
        bit += 1;
    }
    out
}

const fn inverse<const N: usize>(table: &[u8; N]) -> [u8; N] {
    let mut out = [0; N];
    let mut index = 0;
    while index < N {
        out[table[index] as usize] = index as u8;
        index += 1;
    }
    out
}

const fn identity<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    let mut index = 0;
    while index < N {
        out[index] = index as u8;
        index += 1;
    }
    out
}

fn is_permutation<const N: usize>(table: &[u8; N]) -> bool {
    let seen = table
        .iter()
        .fold(0_u64, |seen, value| seen | 1_u64.checked_shl((*value).into()).unwrap_or(0));
    table.iter().all(|value| usize::from(*value) < N) && seen.count_ones() as usize == N
}

const ROUNDS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    /// The cipher word by word as the standard describes it, and every state on its way.
    fn plain_encrypt(tables: &StaTables, key: u64, block: u64) -> (u64, Vec<(u64, u64)>) {
        let (mut key, mut state, mut states) = ((!key).rotate_right(12), block, vec![]);
        for _round in 0..16 {
            let substituted = plain_substitute(&tables.s1, &tables.s2, state, key, 3);
            state = (0..64).fold(0, |out, bit| out | (substituted >> bit & 1) << tables.p[bit]);
            states.push((substituted, state));
            key = key.rotate_left(1);
        }
        (state, states)
    }

    fn plain_decrypt(tables: &StaTables, key: u64, block: u64) -> u64 {
        let (d1, d2) = (inverse(&tables.s2), inverse(&tables.s1));
        let (mut key, mut state) = (key, block);
        for _round in 0..16 {
            state = (0..64).fold(0, |out, bit| out | (state >> tables.p[bit] & 1) << bit);
            state = plain_substitute(&d1, &d2, state, key, 0);
            key = key.rotate_right(1);
        }
        state
    }

    fn plain_substitute(zero: &[u8; 16], one: &[u8; 16], state: u64, key: u64, bit: u32) -> u64 {
        (0..16).fold(0, |out, nibble| {
            let table = if key >> (4 * nibble + bit) & 1 == 0 { zero } else { one };
            out | u64::from(table[(state >> (4 * nibble) & 15) as usize]) << (4 * nibble)
        })
    }

    /// The check value printed with the sample tables (before the class bits are inserted).
    #[test]
    fn sample_tables() {
        let (key, block) = (0x0ABC_12DE_F345_6789, 0x0B19_EB23_0100_C207);
        let cipher = Sta::sample().encrypt(key, block);
        assert_eq!(Sta::sample().decrypt(key, cipher), block);
        let token = crate::block::insert_class(0, cipher);
        assert_eq!(token.bits(), 0x2_C45E_D161_8406_DF95);
    }

    /// The worked chain of STS 531 CTSA01, round by round.
    #[cfg(feature = "production-tables")]
    #[test]
    fn production_tables() {
        let (key, block) = (0xE653_341F_9D5B_F36F_u64, 0x0559_9863_0001_19E6);
        assert_eq!((!key).rotate_right(12), 0xC901_9ACC_BE06_2A40);
        let (cipher, states) = plain_encrypt(&crate::sta_production::PRODUCTION, key, block);
        assert_eq!(states[0], (0xC630_5B1D_CCEA_A562, 0xAD6F_3656_C623_A094));
        assert_eq!(states[1], (0x982B_9261_417D_FE5C, 0xF52C_DB60_8D4E_1F60));
        assert_eq!(cipher, 0x4920_83C0_AE7C_E455);
        assert_eq!(Sta::production().encrypt(key, block), cipher);
    }

    #[test]
    fn tables_that_are_no_permutations_are_refused() {
        let StaTables { s1, s2, p } = StaTables::SAMPLE;
        assert_eq!(StaTables::new(s1, s2, p), Ok(StaTables::SAMPLE));
        let with = |table: [u8; 16], value| {
            let mut table = table;
            table[3] = value;
            table
        };
        assert_eq!(StaTables::new(with(s1, 12), s2, p), Err(StaTablesError("S1")));
        assert_eq!(StaTables::new(s1, with(s2, 16), p), Err(StaTablesError("S2")));
        let mut far = p;
        far[0] = 255;
        assert_eq!(StaTables::new(s1, s2, far), Err(StaTablesError("P")));
    }

    proptest::proptest! {
        #[test]
        fn folded_tables_agree_with_the_plain_cipher(key: u64, block: u64) {
            let plain = plain_encrypt(&StaTables::SAMPLE, key, block).0;
            proptest::prop_assert_eq!(Sta::sample().encrypt(key, block), plain);
            proptest::prop_assert_eq!(plain_decrypt(&StaTables::SAMPLE, key, plain), block);
            proptest::prop_assert_eq!(Sta::sample().decrypt(key, plain), block);
        }

        #[cfg(feature = "production-tables")]
        #[test]
        fn folded_production_tables_agree_with_the_plain_cipher(key: u64, block: u64) {
            let tables = &crate::sta_production::PRODUCTION;
            let plain = plain_encrypt(tables, key, block).0;
            proptest::prop_assert_eq!(Sta::production().encrypt(key, block), plain);
            proptest::prop_assert_eq!(plain_decrypt(tables, key, plain), block);
            proptest::prop_assert_eq!(Sta::production().decrypt(key, plain), block);
        }
    }
}
