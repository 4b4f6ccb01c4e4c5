//! The router sees every entry in order, decides which worker it concerns, and keeps the replay
//! windows of invocation counters. Its state does not depend on the number of workers.

use std::collections::BTreeMap;

use meter::{Change, Entry, GatewayId, MeterId, OutboxId, Seq, Stored, Subject, UnixSeconds};

use crate::snapshot::layout;

/// Lots that accounts, and meters without one, are cut into; a worker keeps whole lots.
pub(crate) const LOTS: u32 = 64;

/// The worker that keeps the account (or, without one, the meter) of this number.
pub(crate) const fn owner(key: u32, workers: u32) -> u32 {
    (key % LOTS) % workers
}

/// Which invocation counters of a device were seen: the highest, and those just below it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ReplayWindow {
    /// The highest; 0 when none was.
    pub highest: u32,
    /// Bit n stands for `highest - n`.
    pub seen: u64,
}

layout!(ReplayWindow { highest, seen });

impl ReplayWindow {
    /// Notes an accepted counter. Counters below the window change nothing.
    pub fn note(&mut self, counter: u32) {
        if counter > self.highest {
            let ahead = counter - self.highest;
            self.seen = self.seen.checked_shl(ahead).unwrap_or(0) | 1;
            self.highest = counter;
        } else if let Some(bit) = 1_u64.checked_shl(self.highest - counter) {
            self.seen |= bit;
        }
    }
}

/// The replay windows of all devices that sent anything.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Windows {
    /// Of meters, ascending.
    pub meters: Vec<(MeterId, ReplayWindow)>,
    /// Of gateways, ascending.
    pub gateways: Vec<(GatewayId, ReplayWindow)>,
}

/// Who keeps a meter, and from when.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Span {
    from: UnixSeconds,
    key: u32,
}

layout!(Span { from, key });

/// What a meter is to the router.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Device {
    window: ReplayWindow,
    /// The newest installation; a key of 0 stands for none.
    span: Span,
}

layout!(Device { window, span });

/// Where entries go.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Router {
    outbox: OutboxId,
    meters: Vec<Device>,
    gateways: BTreeMap<u32, ReplayWindow>,
    /// Installations before the newest: meter and start to key.
    earlier: BTreeMap<(u32, u32), u32>,
}

/// Where one entry goes.
enum Way {
    All,
    One(u32),
}

impl Router {
    /// Sees a batch. With more than one worker, says which entries each of them is to see.
    pub(crate) fn route(&mut self, entries: &[Entry], workers: u32) -> Vec<Vec<u32>> {
        let mut ways = vec![Vec::new(); if workers > 1 { workers as usize } else { 0 }];
        for (place, entry) in entries.iter().enumerate() {
            let way = self.see(entry, workers);
            if workers > 1 {
                let place = place as u32;
                match way {
                    Way::All => ways.iter_mut().for_each(|way| way.push(place)),
                    Way::One(worker) => ways[worker as usize].push(place),
                }
            }
        }
        ways
    }

    fn see(&mut self, entry: &Entry, workers: u32) -> Way {
        match entry {
            Entry::Reading(reading) => {
                if reading.counter != 0 {
                    self.meter(reading.meter).window.note(reading.counter);
                }
                if workers == 1 {
                    return Way::One(0);
                }
                Way::One(owner(self.key_at(reading.meter, reading.taken_at), workers))
            }
            Entry::Event(event) => match event.subject {
                Subject::Meter(id) => {
                    if event.counter != 0 {
                        self.meter(id).window.note(event.counter);
                    }
                    Way::One(owner(self.key_at(id, event.taken_at), workers))
                }
                Subject::Gateway(id) => {
                    if event.counter != 0 {
                        self.gateways.entry(id.0).or_default().note(event.counter);
                    }
                    Way::One(owner(id.0, workers))
                }
                Subject::Account(_) | Subject::Transformer(_) => Way::One(0),
            },
            Entry::Tick(_) => Way::All,
            Entry::Frame { gateway, counter } => {
                self.gateways.entry(gateway.0).or_default().note(*counter);
                Way::One(0)
            }
            Entry::Neighbours(answer) => {
                Way::One(owner(self.key_at(answer.meter, answer.from), workers))
            }
            Entry::Changes { outbox, changes } => {
                if *outbox > self.outbox {
                    self.outbox = *outbox;
                    changes.iter().for_each(|change| self.change(change));
                }
                Way::All
            }
        }
    }

    fn change(&mut self, change: &Change) {
        let (id, account, at) = if let Change::Install(new) = change {
            (new.meter, new.account, new.at)
        } else if let Change::Replace(new) = change {
            (new.new, new.account, new.at)
        } else {
            return;
        };
        let key = if account.is_some() { account.0 } else { id.0 };
        let before = self.meter(id).span;
        if before.key != 0 {
            if at <= before.from {
                return;
            }
            self.earlier.insert((id.0, before.from.0), before.key);
        }
        self.meter(id).span = Span { from: at, key };
    }

    fn meter(&mut self, id: MeterId) -> &mut Device {
        let index = id.0 as usize;
        if self.meters.len() <= index {
            self.meters.resize(index + 1, Device::default());
        }
        &mut self.meters[index]
    }

    /// The key of the installation that a stamp falls into, or of the newest.
    fn key_at(&self, id: MeterId, at: UnixSeconds) -> u32 {
        let Some(Device { span, .. }) = self.meters.get(id.0 as usize) else { return id.0 };
        if span.key == 0 {
            return id.0;
        }
        if at >= span.from {
            return span.key;
        }
        let before = self.earlier.range((id.0, 0)..=(id.0, at.0)).next_back();
        before.map_or(span.key, |(_, key)| *key)
    }

    pub(crate) fn windows(&self) -> Windows {
        let meters = self.meters.iter().enumerate().filter(|(_, d)| d.window.highest != 0);
        let gateways = self.gateways.iter();
        Windows {
            meters: meters.map(|(id, device)| (MeterId(id as u32), device.window)).collect(),
            gateways: gateways.map(|(id, window)| (GatewayId(*id), *window)).collect(),
        }
    }

    pub(crate) fn save(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.outbox.0.put(&mut out);
        self.meters.put(&mut out);
        (self.gateways.len() as u32).put(&mut out);
        for (id, window) in &self.gateways {
            id.put(&mut out);
            window.put(&mut out);
        }
        (self.earlier.len() as u32).put(&mut out);
        for ((meter, from), key) in &self.earlier {
            [*meter, *from, *key].put(&mut out);
        }
        out
    }

    pub(crate) fn restore(mut bytes: &[u8]) -> Option<Self> {
        let bytes = &mut bytes;
        let outbox = OutboxId(u64::take(bytes)?);
        let meters = Vec::take(bytes)?;
        let (mut gateways, mut earlier) = (BTreeMap::new(), BTreeMap::new());
        for _ in 0..u32::take(bytes)? {
            gateways.insert(u32::take(bytes)?, ReplayWindow::take(bytes)?);
        }
        for _ in 0..u32::take(bytes)? {
            let [meter, from, key] = <[u32; 3]>::take(bytes)?;
            earlier.insert((meter, from), key);
        }
        bytes.is_empty().then_some(Self { outbox, meters, gateways, earlier })
    }
}

/// The log position after a batch.
pub(crate) fn after(first: Seq, entries: &[Entry]) -> Seq {
    Seq(first.0 + entries.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_note_order_and_disorder() {
        let mut window = ReplayWindow::default();
        [5, 3, 5, 70, 6, 7].into_iter().for_each(|counter| window.note(counter));
        let seen = |n: u32| window.seen >> (window.highest - n) & 1;
        assert_eq!(window.highest, 70);
        assert_eq!([seen(70), seen(7), seen(8)], [1, 1, 0]);
        window.note(70 + 64);
        assert_eq!(window.seen, 1, "all before are below the window");
        window.note(3);
        assert_eq!(window.seen, 1);
    }
}
