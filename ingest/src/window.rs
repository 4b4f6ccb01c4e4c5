//! The replay window of a device: which invocation counters were accepted, 64 wide, in atomics.
//!
//! Counters are cut into blocks of 32. Three words stand for blocks `b mod 3`, each with its
//! block's number and a bit for each counter of it:
//!
//! | bits | what |
//! |---|---|
//! | 32-58 | number of the block |
//! | 0-31 | counters of the block that were accepted |
//!
//! A counter belongs to one word, and a word's block number never goes back. One compare-and-swap
//! on that word accepts it, so **a counter is accepted once**, whichever threads see it. Three
//! blocks hold the newest counter and at least the 64 before it; the newest decides what is too
//! old. Counter 0 is never accepted: the log uses it for "none".

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters that a window remembers, the newest included.
pub const WINDOW_SIZE: u32 = 64;

const BLOCK_SIZE: u32 = 32;
const BLOCKS: usize = 3;

/// Why a counter is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Refusal {
    /// Accepted before.
    Replayed,
    /// Behind the window, or 0.
    TooOld,
}

/// The window of one device.
#[derive(Debug, Default)]
pub(crate) struct Window {
    blocks: [AtomicU64; BLOCKS],
}

#[derive(Clone, Copy)]
struct Block(u64);

impl Window {
    /// Whether [`Self::accept`] would refuse the counter now; changes nothing.
    pub(crate) fn check(&self, counter: u32) -> Result<(), Refusal> {
        let word = self.word(counter);
        self.judge(counter, Block(word.load(Ordering::Relaxed))).map(drop)
    }

    /// Accepts a counter of a frame whose tag was verified, once.
    ///
    /// # Errors
    /// [`Refusal`] when it was accepted before, or might have been.
    pub(crate) fn accept(&self, counter: u32) -> Result<(), Refusal> {
        let word = self.word(counter);
        // Relaxed: the word alone decides, and nothing else is published by it.
        let mut before = word.load(Ordering::Relaxed);
        loop {
            let after = self.judge(counter, Block(before))?;
            match word.compare_exchange_weak(before, after.0, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return Ok(()),
                Err(now) => before = now,
            }
        }
    }

    /// Takes over a window as the log knows it: bit k of `bits` stands for `highest - k`.
    pub(crate) fn restore(&self, highest: u32, bits: u64) {
        for back in (0..WINDOW_SIZE).rev().filter(|back| bits >> back & 1 == 1 || *back == 0) {
            if let Some(counter) = highest.checked_sub(back) {
                // A refusal means that the window knows it already.
                let _known = self.accept(counter);
            }
        }
    }

    /// The highest counter accepted, 0 when none was.
    pub(crate) fn highest(&self) -> u32 {
        self.blocks
            .iter()
            .map(|word| Block(word.load(Ordering::Relaxed)).highest())
            .max()
            .unwrap_or(0)
    }

    fn word(&self, counter: u32) -> &AtomicU64 {
        &self.blocks[(counter / BLOCK_SIZE) as usize % BLOCKS]
    }

    /// The block with the counter in it.
    fn judge(&self, counter: u32, block: Block) -> Result<Block, Refusal> {
        if counter == 0 || self.highest().saturating_sub(counter) >= WINDOW_SIZE {
            return Err(Refusal::TooOld);
        }
        let (number, bit) = (u64::from(counter / BLOCK_SIZE), 1 << (counter % BLOCK_SIZE));
        match block.number() {
            later if later > number => Err(Refusal::TooOld),
            same if same == number && block.0 & bit != 0 => Err(Refusal::Replayed),
            same if same == number => Ok(Block(block.0 | bit)),
            _ => Ok(Block(number << BLOCK_SIZE | bit)),
        }
    }
}

impl Block {
    const fn number(self) -> u64 {
        self.0 >> BLOCK_SIZE
    }

    /// The highest counter in it, 0 when it holds none.
    const fn highest(self) -> u32 {
        let bits = self.0 as u32;
        match bits.checked_ilog2() {
            Some(bit) => self.number() as u32 * BLOCK_SIZE + bit,
            None => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Barrier;
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    /// The rule in plain words.
    #[derive(Default)]
    struct Model {
        highest: u32,
        seen: BTreeSet<u32>,
    }

    impl Model {
        fn accept(&mut self, counter: u32) -> Result<(), Refusal> {
            if counter == 0 || self.highest.saturating_sub(counter) >= WINDOW_SIZE {
                return Err(Refusal::TooOld);
            }
            self.highest = self.highest.max(counter);
            if self.seen.insert(counter) { Ok(()) } else { Err(Refusal::Replayed) }
        }
    }

    fn check(counters: &[u32]) -> Window {
        let (window, mut model) = (Window::default(), Model::default());
        for (at, &counter) in counters.iter().enumerate() {
            let want = model.accept(counter);
            assert_eq!(window.check(counter), want, "{counters:?} at {at}");
            assert_eq!(window.accept(counter), want, "{counters:?} at {at}");
            assert_eq!(window.highest(), model.highest, "{counters:?} at {at}");
        }
        window
    }

    #[test]
    fn cases() {
        check(&[0, 1, 1, 2, 0]);
        check(&[64, 1, 65, 2, 1, 1]);
        check(&[31, 32, 95, 31, 32, 96, 33, 32]);
        check(&[u32::MAX, u32::MAX, u32::MAX - 63, u32::MAX - 64, 1]);
        check(&[1000, 937, 936, 5]);
    }

    proptest! {
        #[test]
        fn as_the_model(
            start in prop_oneof![Just(0_u32), Just(u32::MAX - 400), any::<u32>()],
            steps in prop::collection::vec((0_u32..140, 0_u32..130), 1..200),
        ) {
            let mut base = start;
            let counters: Vec<_> = steps
                .into_iter()
                .map(|(ahead, back)| {
                    base = base.saturating_add(ahead / 30);
                    base.saturating_add(ahead).saturating_sub(back)
                })
                .collect();
            check(&counters);
        }

        #[test]
        fn a_restored_window_refuses_what_it_knew(
            counters in prop::collection::vec(1_u32..300, 1..100),
            next in prop::collection::vec(0_u32..400, 1..100),
        ) {
            let mut model = Model::default();
            for counter in counters {
                let _either = model.accept(counter);
            }
            let bits = (0..WINDOW_SIZE)
                .filter(|back| model.highest.checked_sub(*back).is_some_and(|c| model.seen.contains(&c)))
                .fold(0_u64, |bits, back| bits | 1 << back);
            let window = Window::default();
            window.restore(model.highest, bits);
            for counter in next {
                prop_assert_eq!(window.accept(counter), model.accept(counter), "counter {}", counter);
            }
        }

        /// Two threads offer overlapping counters in different orders: each is accepted once.
        #[test]
        fn two_threads_accept_a_counter_once(
            left in prop::collection::vec(1_u32..200, 1..120),
            right in prop::collection::vec(1_u32..200, 1..120),
        ) {
            let (window, start) = (Window::default(), Barrier::new(2));
            let offer = |counters: &[u32]| {
                start.wait();
                counters.iter().copied().filter(|c| window.accept(*c).is_ok()).collect::<Vec<_>>()
            };
            let (left_won, right_won) = thread::scope(|scope| {
                let other = scope.spawn(|| offer(&right));
                (offer(&left), other.join().unwrap())
            });
            let mut won = [left_won, right_won].concat();
            let offers = won.len();
            won.sort_unstable();
            won.dedup();
            prop_assert_eq!(won.len(), offers, "accepted twice");
            prop_assert_eq!(window.highest(), *left.iter().chain(&right).max().unwrap());
        }
    }
}
