//! The till: sales that come at the same time share one transaction, hence one sync.

use std::sync::Arc;

use storage::registry::{NewSale, Refusal, Registry, SALES_MAX, SaleRow};
use tokio::sync::{mpsc, oneshot};

use crate::problem::{Answer, Problem};
use crate::vault::Vault;

/// Sales that wait for the till at most; more wait with their connections.
const WAITING_MAX: usize = 1024;

/// Takes sales one by one and makes them durable together.
#[derive(Debug)]
pub(crate) struct Till {
    waiting: mpsc::Sender<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    sale: NewSale,
    answer: oneshot::Sender<Answer<SaleRow>>,
}

impl Till {
    /// Opens the till. It closes when this is dropped.
    pub(crate) fn open(registry: Arc<Registry>, vault: Arc<Vault>) -> Self {
        let (waiting, sales) = mpsc::channel(WAITING_MAX);
        tokio::spawn(serve(registry, vault, sales));
        Self { waiting }
    }

    /// Sells, durably.
    pub(crate) async fn sell(&self, sale: NewSale) -> Answer<SaleRow> {
        let (answer, answered) = oneshot::channel();
        let is_open = self.waiting.send(Waiting { sale, answer }).await.is_ok();
        match answered.await {
            Ok(answer) if is_open => answer,
            _ => Err(crate::node::NotApplied.into()),
        }
    }
}

async fn serve(registry: Arc<Registry>, vault: Arc<Vault>, mut sales: mpsc::Receiver<Waiting>) {
    let mut batch = Vec::with_capacity(SALES_MAX);
    while sales.recv_many(&mut batch, SALES_MAX).await > 0 {
        let (new, answers): (Vec<NewSale>, Vec<_>) =
            batch.drain(..).map(|waiting| (waiting.sale, waiting.answer)).unzip();
        let results = registry.sell(&new, &*vault).await.map_err(Problem::from);
        let refused = |refusal: Refusal| Problem::from(refusal);
        let results: Vec<Answer<SaleRow>> = match results {
            Ok(results) => results.into_iter().map(|result| result.map_err(refused)).collect(),
            Err(problem) => new.iter().map(|_| Err(problem.clone())).collect(),
        };
        for (answer, result) in answers.into_iter().zip(results) {
            // Who asked may have gone; the sale stands under its key.
            drop(answer.send(result));
        }
    }
}
