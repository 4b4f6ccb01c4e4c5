//! The till: sales that come at the same time share one transaction, hence one sync.
//!
//! A thread of its own takes all sales that wait, makes them durable and answers; the next gather
//! meanwhile, so that a batch grows with the load. The answer does not wait for the log and the books,
//! which take several batches at once: who reads the books afterwards waits for them instead. An order
//! to cut somebody off goes through the registry once more before it is carried, behind every sale
//! that was answered by then, so the books decide it with what was paid; and whoever is overdrawn
//! already is answered when the books have the sale.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use meter::OutboxId;
use storage::registry::{NewSale, Registry, SALES_MAX, SaleRow};
use tokio::sync::{mpsc, oneshot};

use crate::node::{Applied, NotApplied};
use crate::problem::{Answer, Problem};
use crate::vault::Vault;

/// Sales that wait for the till at most; more wait with their connections.
const WAITING_MAX: usize = 1024;

/// Takes sales one by one and makes them durable together.
pub(crate) struct Till {
    waiting: mpsc::Sender<Waiting>,
    /// The newest row of the outbox with a sale that was answered.
    sold: Arc<AtomicU64>,
    /// One that the books are known to have.
    in_books: AtomicU64,
    applied: Arc<dyn Applied>,
}

impl fmt::Debug for Till {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Till").field("sold", &self.sold).finish_non_exhaustive()
    }
}

struct Waiting {
    sale: NewSale,
    answer: oneshot::Sender<Answer<SaleRow>>,
}

/// What the till works with.
struct Counter {
    registry: Arc<Registry>,
    vault: Arc<Vault>,
    sold: Arc<AtomicU64>,
}

impl Till {
    /// Opens the till. It closes when this is dropped.
    ///
    /// # Panics
    /// When no thread can be started.
    pub(crate) fn open(
        registry: Arc<Registry>,
        vault: Arc<Vault>,
        applied: Arc<dyn Applied>,
    ) -> Self {
        let (waiting, sales) = mpsc::channel(WAITING_MAX);
        // What was answered before a restart may still be on its way to the log.
        let sold = Arc::new(AtomicU64::new(registry.watch_outbox().borrow().0));
        let counter = Counter { registry, vault, sold: Arc::clone(&sold) };
        let thread = std::thread::Builder::new().name("till".to_owned());
        thread.spawn(move || counter.serve(sales)).expect("a thread can be started at the start");
        Self { waiting, sold, in_books: AtomicU64::new(0), applied }
    }

    /// Sells: the answer comes when the sale is durable.
    pub(crate) async fn sell(&self, sale: NewSale) -> Answer<SaleRow> {
        let (answer, answered) = oneshot::channel();
        let is_open = self.waiting.send(Waiting { sale, answer }).await.is_ok();
        match answered.await {
            Ok(answer) if is_open => answer,
            _ => Err(NotApplied.into()),
        }
    }

    /// Waits until the books have every sale that was answered before.
    pub(crate) async fn in_books(&self) -> Answer<()> {
        // Acquire: who was told of a sale, even by another thread, finds its row here.
        let sold = self.sold.load(Ordering::Acquire);
        if self.in_books.load(Ordering::Acquire) < sold {
            self.applied.wait(OutboxId(sold)).await?;
            self.in_books.fetch_max(sold, Ordering::Release);
        }
        Ok(())
    }
}

impl Counter {
    fn serve(self, mut sales: mpsc::Receiver<Waiting>) {
        let mut batch = Vec::with_capacity(SALES_MAX);
        while sales.blocking_recv_many(&mut batch, SALES_MAX) > 0 {
            let (new, answers): (Vec<NewSale>, Vec<_>) =
                batch.drain(..).map(|waiting| (waiting.sale, waiting.answer)).unzip();
            for (answer, result) in answers.into_iter().zip(self.sell(&new)) {
                // Who asked may have gone; the sale stands under its key.
                drop(answer.send(result));
            }
        }
    }

    fn sell(&self, new: &[NewSale]) -> Vec<Answer<SaleRow>> {
        match self.registry.sell(new, &*self.vault) {
            Ok(results) => {
                let newest = results.iter().flatten().map(|row| row.outbox.0).max();
                self.sold.fetch_max(newest.unwrap_or(0), Ordering::Release);
                results.into_iter().map(|result| result.map_err(Problem::from)).collect()
            }
            Err(error) => {
                let problem = Problem::from(error);
                new.iter().map(|_| Err(problem.clone())).collect()
            }
        }
    }
}
