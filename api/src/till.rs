//! The till: sales that come at the same time share one transaction, hence one sync, and one way
//! through the log and the books.
//!
//! A batch is half of the sales under way: while it is on its way through the log and the books, the
//! other half is at the registry, so neither waits for the other. It waits until so many are there,
//! but only while another batch is on its way: a lone sale is served at once, and many do not make a
//! sync for each handful that happens to come first.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use meter::OutboxId;
use storage::registry::{
    NewSale, Refusal, Registry, RegistryError, SALES_MAX, SaleRow, TokenIssuer,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::node::{Applied, NotApplied};
use crate::problem::{Answer, Problem};
use crate::vault::Vault;

/// Sales that wait for the till at most; more wait with their connections.
const WAITING_MAX: usize = 1024;
/// So many sales share a transaction however few are under way.
const TOGETHER: usize = 8;

/// Takes sales one by one and makes them durable together.
#[derive(Debug)]
pub(crate) struct Till {
    waiting: mpsc::Sender<Waiting>,
    under_way: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Waiting {
    sale: NewSale,
    answer: oneshot::Sender<Answer<SaleRow>>,
}

/// What the till works with.
pub(crate) struct Counter {
    pub(crate) registry: Arc<Registry>,
    pub(crate) vault: Arc<Vault>,
    pub(crate) applied: Arc<dyn Applied>,
}

impl Till {
    /// Opens the till. It closes when this is dropped.
    pub(crate) fn open(counter: Counter) -> Self {
        let (waiting, sales) = mpsc::channel(WAITING_MAX);
        let under_way = Arc::new(AtomicUsize::new(0));
        tokio::spawn(counter.serve(sales, Arc::clone(&under_way)));
        Self { waiting, under_way }
    }

    /// Sells: the answer comes when the sale is durable and in the books.
    pub(crate) async fn sell(&self, sale: NewSale) -> Answer<SaleRow> {
        let _under_way = UnderWay::enter(&self.under_way);
        let (answer, answered) = oneshot::channel();
        let is_open = self.waiting.send(Waiting { sale, answer }).await.is_ok();
        match answered.await {
            Ok(answer) if is_open => answer,
            _ => Err(NotApplied.into()),
        }
    }
}

/// A sale under way: from its request to its answer.
struct UnderWay<'a>(&'a AtomicUsize);

impl<'a> UnderWay<'a> {
    fn enter(count: &'a AtomicUsize) -> Self {
        // Relaxed: the count steers sizes only.
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Counter {
    async fn serve(self, mut sales: mpsc::Receiver<Waiting>, under_way: Arc<AtomicUsize>) {
        let mut batch = Vec::with_capacity(SALES_MAX);
        let mut on_their_way = JoinSet::new();
        while gather(&mut batch, &mut sales, &mut on_their_way, &under_way).await {
            let (new, answers): (Vec<NewSale>, Vec<_>) =
                batch.drain(..).map(|waiting| (waiting.sale, waiting.answer)).unzip();
            let results: Vec<Answer<SaleRow>> = match self.sell(new).await.map_err(Problem::from) {
                Ok(results) => {
                    results.into_iter().map(|result| result.map_err(Problem::from)).collect()
                }
                Err(problem) => answers.iter().map(|_| Err(problem.clone())).collect(),
            };
            // The next batch does not wait for the log and the books of this one.
            on_their_way.spawn(hand_out(Arc::clone(&self.applied), answers, results));
        }
        // Who was sold to is still answered.
        while on_their_way.join_next().await.is_some() {}
    }

    async fn sell(
        &self,
        new: Vec<NewSale>,
    ) -> Result<Vec<Result<SaleRow, Refusal>>, RegistryError> {
        let vault: Arc<dyn TokenIssuer> = Arc::clone(&self.vault) as _;
        let turn = self.registry.turn_to_sell().await?;
        self.registry.sell(turn, new, vault).await
    }
}

/// Gathers half of the sales under way, or those that are there when no batch is on its way. False
/// when the till is closed and nobody waits.
async fn gather(
    batch: &mut Vec<Waiting>,
    sales: &mut mpsc::Receiver<Waiting>,
    on_their_way: &mut JoinSet<()>,
    under_way: &AtomicUsize,
) -> bool {
    let half = || under_way.load(Ordering::Relaxed) / 2;
    let most = |half: usize| half.clamp(TOGETHER, SALES_MAX);
    while on_their_way.try_join_next().is_some() {}
    if sales.recv_many(batch, most(half())).await == 0 {
        return false;
    }
    while batch.len() < half().min(SALES_MAX) {
        if on_their_way.is_empty() {
            break;
        }
        let room = most(half()).saturating_sub(batch.len()).max(1);
        tokio::select! {
            count = sales.recv_many(batch, room) => if count == 0 { break },
            _ = on_their_way.join_next() => {}
        }
    }
    true
}

/// Answers when the books have the newest sale of a batch, hence all of them.
async fn hand_out(
    applied: Arc<dyn Applied>,
    answers: Vec<oneshot::Sender<Answer<SaleRow>>>,
    results: Vec<Answer<SaleRow>>,
) {
    let sold = results.iter().flatten().map(|row| row.outbox);
    let newest = sold.max().unwrap_or(OutboxId(0));
    let is_applied = newest == OutboxId(0) || applied.wait(newest).await.is_ok();
    for (answer, result) in answers.into_iter().zip(results) {
        let result =
            result.and_then(|row| if is_applied { Ok(row) } else { Err(NotApplied.into()) });
        // Who asked may have gone; the sale stands under its key.
        drop(answer.send(result));
    }
}
