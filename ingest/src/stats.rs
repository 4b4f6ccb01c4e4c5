//! Counters: each shard adds to its own once a turn; anybody may read the sum.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Ending, Outcome};

macro_rules! tallies {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What one shard counted in one turn.
        #[derive(Debug, Default)]
        pub(crate) struct Tally {
            pub(crate) outcomes: [u64; Outcome::ALL.len()],
            pub(crate) endings: [u64; Ending::ALL.len()],
            $(pub(crate) $name: u64,)*
        }

        /// What one shard counted since its start.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            outcomes: [AtomicU64; Outcome::ALL.len()],
            endings: [AtomicU64; Ending::ALL.len()],
            $($name: AtomicU64,)*
        }

        /// What all shards counted since the start.
        #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
        pub struct Stats {
            outcomes: [u64; Outcome::ALL.len()],
            endings: [u64; Ending::ALL.len()],
            $($(#[$doc])* pub $name: u64,)*
            /// Connections open now.
            pub connections: u32,
            /// Connections open now on which an authentic frame was seen.
            pub sessions: u32,
        }

        impl Counters {
            /// Adds a turn's tally and clears it. Relaxed throughout: nothing is concluded from
            /// two counters read together but by who knows that the shards rest.
            pub(crate) fn add(&self, tally: &mut Tally) {
                add_all(&self.outcomes, &tally.outcomes);
                add_all(&self.endings, &tally.endings);
                $(add(&self.$name, tally.$name);)*
                *tally = Tally::default();
            }

            pub(crate) fn add_to(&self, stats: &mut Stats) {
                sum_all(&self.outcomes, &mut stats.outcomes);
                sum_all(&self.endings, &mut stats.endings);
                $(stats.$name += self.$name.load(Ordering::Relaxed);)*
            }
        }
    };
}

tallies! {
    /// Datagrams (pieces of coalesced ones counted singly) and frames of streams that came in.
    frames,
    /// Their bytes.
    frame_bytes,
    /// Datagrams that the kernel dropped because a socket's queue was full.
    kernel_drops,
    /// Batches handed to the log.
    batches,
    /// Entries in them.
    entries,
    /// Acknowledgements handed to the kernel.
    acks,
    /// Acknowledgements that could not be sent: the address is unreachable, the connection gone.
    acks_lost,
    /// Frames of commands handed to the kernel, or to a connection.
    requests,
    /// Connections accepted.
    accepted_connections,
    /// Turns in which a shard did not read because the log was behind.
    stalls,
}

impl Tally {
    pub(crate) const fn count(&mut self, outcome: Outcome) {
        self.count_many(outcome, 1);
    }

    pub(crate) const fn count_many(&mut self, outcome: Outcome, frames: u64) {
        self.outcomes[outcome.index()] += frames;
    }

    pub(crate) const fn end(&mut self, ending: Ending) {
        self.endings[ending.index()] += 1;
    }
}

impl Stats {
    /// How many frames had this outcome.
    #[must_use]
    pub const fn outcome(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome.index()]
    }

    /// How many connections ended so.
    #[must_use]
    pub const fn ending(&self, ending: Ending) -> u64 {
        self.endings[ending.index()]
    }

    /// Frames in memory whose batch the log has not answered. (Read while shards run, it may be
    /// off by what they count meanwhile.)
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.frames.saturating_sub(self.outcomes.iter().sum())
    }
}

fn add(counter: &AtomicU64, count: u64) {
    if count != 0 {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

fn add_all(counters: &[AtomicU64], counts: &[u64]) {
    counters.iter().zip(counts).for_each(|(counter, count)| add(counter, *count));
}

fn sum_all(counters: &[AtomicU64], sums: &mut [u64]) {
    counters.iter().zip(sums).for_each(|(counter, sum)| *sum += counter.load(Ordering::Relaxed));
}
