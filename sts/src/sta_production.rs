//! The production tables of EA07, as real meters use them: data only.
//!
//! The STS Association hands these to its users on request (IEC 62055-41 §10.2.8, §10.2.9); they
//! are printed in several public code bases and given here as facts. Whether you may use them is
//! between you and the Association: build without the feature `production-tables` to leave them
//! out. See `docs/sts.md`.

use crate::sta::StaTables;

/// The set of real meters.
pub(crate) const PRODUCTION: StaTables = StaTables {
    s1: [14, 10, 7, 9, 12, 3, 2, 5, 13, 0, 15, 1, 4, 8, 6, 11],
    s2: [12, 8, 2, 13, 7, 6, 1, 3, 11, 5, 9, 15, 0, 4, 10, 14],
    p: [
        55, 42, 10, 18, 24, 21, 44, 35, 2, 22, 56, 43, 27, 58, 9, 50, 6, 36, 12, 61, 37, 38, 53,
        16, 62, 3, 7, 4, 32, 20, 63, 25, 51, 52, 54, 33, 49, 19, 46, 29, 48, 31, 23, 30, 41, 28,
        13, 5, 40, 60, 39, 11, 15, 17, 1, 0, 57, 34, 59, 8, 47, 14, 45, 26,
    ],
};
