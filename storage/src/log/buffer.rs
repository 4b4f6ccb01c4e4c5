//! A byte buffer whose first byte is block aligned, as direct writes want it, without `unsafe`.

use std::fmt;

use super::format::BLOCK;

pub(crate) struct BlockBuffer {
    bytes: Vec<u8>,
    /// Where the aligned content begins.
    start: usize,
}

impl BlockBuffer {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        let mut bytes: Vec<u8> = Vec::with_capacity(capacity + BLOCK);
        let start = bytes.as_ptr().addr().wrapping_neg() % BLOCK;
        bytes.resize(start, 0);
        Self { bytes, start }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.truncate(self.start);
    }

    /// Gives memory above `capacity` back; the buffer is empty.
    pub(crate) fn shrink_to(&mut self, capacity: usize) {
        debug_assert!(self.is_empty());
        if self.bytes.capacity() > capacity + BLOCK {
            *self = Self::with_capacity(capacity);
        }
    }

    /// Appends, and keeps the alignment when the memory has to move.
    pub(crate) fn extend(&mut self, more: &[u8]) {
        self.reserve(more.len());
        self.bytes.extend_from_slice(more);
    }

    /// Appends zeros up to the next block.
    pub(crate) fn pad_to_block(&mut self) {
        let padded = self.len().next_multiple_of(BLOCK);
        self.grow_to(padded);
    }

    /// Appends zeros up to this length.
    pub(crate) fn grow_to(&mut self, len: usize) {
        self.reserve(len.saturating_sub(self.len()));
        self.bytes.resize(self.start + len, 0);
    }

    fn reserve(&mut self, more: usize) {
        if self.bytes.capacity() - self.bytes.len() < more {
            let mut larger = Self::with_capacity((self.len() + more).max(2 * self.len()));
            larger.bytes.extend_from_slice(self.as_slice());
            *self = larger;
        }
    }
}

impl fmt::Debug for BlockBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockBuffer").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_aligned_while_it_grows() {
        let mut buffer = BlockBuffer::with_capacity(10);
        let mut want = Vec::new();
        for size in [1, 5, 4096, 3, 70_000, 1] {
            let bytes = vec![size as u8; size];
            buffer.extend(&bytes);
            want.extend_from_slice(&bytes);
            buffer.pad_to_block();
            want.resize(want.len().next_multiple_of(BLOCK), 0);
            assert_eq!(buffer.as_slice(), want, "size {size}");
            assert_eq!(buffer.as_slice().as_ptr().addr() % BLOCK, 0, "size {size}");
        }
    }
}
