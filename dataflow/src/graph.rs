//! The dataflow as timely sees it: books, then line loss keyed by transformer. The rules know
//! nothing of timely; this file knows nothing of the rules.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::Duration;

use meter::{Effects, Entry, Seq};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::operators::probe::Handle as ProbeHandle;
use timely::dataflow::operators::{Input, Probe};
use timely::dataflow::{InputHandle, Scope};
use timely::worker::Worker;

use crate::books::Books;
use crate::loss::{Loss, Usage};
use crate::snapshot::Record;

/// A batch on its way to one worker.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    pub(crate) first: Seq,
    pub(crate) entries: Arc<Vec<Entry>>,
    /// The places of the worker's entries; all when there is one worker.
    pub(crate) mine: Option<Vec<u32>>,
    /// Empty, with memory to write into.
    pub(crate) effects: Effects,
}

/// What a worker is asked.
#[derive(Debug)]
pub(crate) enum Command {
    Batch(Box<Work>),
    /// Hand out the state; all batches before are through.
    Save,
}

/// What a worker answers. Batches are counted from 0.
#[derive(Debug)]
pub(crate) enum Reply {
    Books {
        epoch: u64,
        worker: u32,
        effects: Effects,
    },
    Loss {
        epoch: u64,
        worker: u32,
        effects: Effects,
    },
    Saved {
        reference: Vec<u8>,
        books: Vec<Record>,
        loss: Vec<Record>,
    },
    /// The worker is no more.
    Gone {
        worker: u32,
        reason: String,
    },
}

/// How long a worker that waits for its peers sleeps at most before it looks again.
const PARK: Duration = Duration::from_millis(20);

/// Runs one worker until its commands end.
pub(crate) fn run(
    worker: &mut Worker,
    books: Books,
    loss: Loss,
    commands: &Receiver<Command>,
    replies: &Sender<Reply>,
) {
    let (books, loss) = (Rc::new(RefCell::new(books)), Rc::new(RefCell::new(loss)));
    let probe = ProbeHandle::new();
    let mut input = worker.dataflow(|scope| build(scope, &books, &loss, replies, &probe));
    let mut epoch = 0_u64;
    loop {
        let is_busy = probe.less_than(&epoch);
        let command = if is_busy {
            match commands.try_recv() {
                Ok(command) => command,
                Err(TryRecvError::Empty) => {
                    worker.step_or_park(Some(PARK));
                    continue;
                }
                Err(TryRecvError::Disconnected) => break,
            }
        } else {
            let Ok(command) = commands.recv() else { break };
            command
        };
        match command {
            Command::Batch(work) => {
                input.send(*work);
                epoch += 1;
                input.advance_to(epoch);
                worker.step();
            }
            Command::Save => {
                let (books, loss) = (books.borrow(), loss.borrow());
                let reference = books.save_reference();
                let saved = Reply::Saved { reference, books: books.save(), loss: loss.save() };
                if replies.send(saved).is_err() {
                    break;
                }
            }
        }
    }
}

/// Lets the dataflow go without waiting for peers: one of them may be gone.
pub(crate) fn leave(worker: &mut Worker) {
    for dataflow in worker.installed_dataflows() {
        worker.drop_dataflow(dataflow);
    }
}

fn build(
    scope: Scope<'_, u64>,
    books: &Rc<RefCell<Books>>,
    loss: &Rc<RefCell<Loss>>,
    replies: &Sender<Reply>,
    probe: &ProbeHandle<u64>,
) -> InputHandle<u64, CapacityContainerBuilder<Vec<Work>>> {
    let (input, batches) = scope.new_input::<Vec<Work>>();
    let (books, loss) = (Rc::clone(books), Rc::clone(loss));
    let (to_books, to_loss) = (replies.clone(), replies.clone());
    let (worker, workers) = (books.borrow().worker, books.borrow().workers);
    let usage = batches.unary::<CapacityContainerBuilder<Vec<Usage>>, _, _, _>(
        Pipeline,
        "Books",
        move |_, _| {
            move |input, output| {
                input.for_each_stamp(|time, data| {
                    let Some(epoch) = time.least().copied() else { return };
                    let mut books = books.borrow_mut();
                    for work in data.flat_map(|works| works.drain(..)) {
                        books.out.effects = work.effects;
                        books.accept(work.first, &work.entries, work.mine.as_deref());
                        let effects = std::mem::take(&mut books.out.effects);
                        // The engine is going away when nobody listens.
                        drop(to_books.send(Reply::Books { epoch, worker, effects }));
                    }
                    output.session(&time).give_iterator(books.out.usage.drain(..));
                });
            }
        },
    );
    usage
        .unary_frontier::<CapacityContainerBuilder<Vec<()>>, _, _, _>(
            Exchange::new(move |usage: &Usage| u64::from(usage.worker(workers))),
            "Loss",
            move |_, _| {
                let mut waiting: BTreeMap<u64, Vec<Usage>> = BTreeMap::new();
                move |(input, frontier), _| {
                    input.for_each_stamp(|time, data| {
                        let Some(epoch) = time.least().copied() else { return };
                        let news = waiting.entry(epoch).or_default();
                        data.for_each(|usages| news.append(usages));
                    });
                    while let Some(entry) = waiting.first_entry() {
                        if frontier.less_equal(entry.key()) {
                            break;
                        }
                        let (epoch, mut news) = entry.remove_entry();
                        let mut effects = Effects::default();
                        loss.borrow_mut().accept(&mut news, &mut effects);
                        drop(to_loss.send(Reply::Loss { epoch, worker, effects }));
                    }
                }
            },
        )
        .probe_with(probe);
    input
}
