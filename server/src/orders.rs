//! Orders to relays on their way: from the books, in their turn, to the meter, and back as a report.
//!
//! The books decide; this part keeps turns (one disconnection at a time below a transformer, a
//! pause before a second attempt), hands what is sent to a [`Relays`], and tells the books what
//! came of it. Every step is kept in the registry. **Invariant:** nothing is sent that the books did
//! not send: a turn only asks them to decide again.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use api::BoxFuture;
use meter::{
    AccountId, Command, CommandOutcome, OrderId, OrderKind, OrderNews, OrderReport, OrderRow,
    OrderState, SupplyPolicy, TransformerId, UnixSeconds,
};
use storage::registry::{NewCommand, Registry, RegistryError};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::clock::Now;

/// How often turns are looked at while any waits.
const LOOK: Duration = Duration::from_millis(100);
/// Pause after the registry did not answer.
const RETRY: Duration = Duration::from_secs(1);
/// Orders read at once at the start.
const PAGE: u32 = 1000;
/// Steps kept in one transaction.
const STEPS_MAX: usize = 256;

/// The way to the meters' relays.
pub trait Relays: Send + Sync + 'static {
    /// Carries an attempt of an order to its meter, reads the relay back and says how it stands.
    /// The same order and attempt asked twice is carried once.
    fn carry(&self, order: OrderRow) -> BoxFuture<'static, OrderNews>;

    /// Calls an attempt back, if it is still on its way.
    fn call_back(&self, order: OrderRow) -> BoxFuture<'static, ()>;
}

/// The mailbox of commands as the way to the relays: a meter that is not reachable now gets its
/// order when it is, until the order expires.
pub struct Mailbox {
    registry: Arc<Registry>,
    now: Now,
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mailbox")
    }
}

impl Mailbox {
    /// The registry's mailbox.
    #[must_use]
    pub const fn new(registry: Arc<Registry>, now: Now) -> Self {
        Self { registry, now }
    }

    /// The command of an attempt; its key names it for ever.
    fn command(&self, order: &OrderRow) -> NewCommand {
        NewCommand {
            key: format!("order-{}-{}", order.order, order.attempt),
            meter: order.meter,
            command: match order.kind {
                OrderKind::Disconnect => Command::Disconnect,
                OrderKind::Reconnect => Command::Reconnect,
            },
            at: (self.now)(),
            expires_at: order.expires_at,
            actor: 0,
        }
    }
}

impl Relays for Mailbox {
    fn carry(&self, order: OrderRow) -> BoxFuture<'static, OrderNews> {
        let (registry, new) = (Arc::clone(&self.registry), self.command(&order));
        Box::pin(async move {
            let Some(command) = until_answered(|| registry.command(&new)).await else {
                return OrderNews::Refused;
            };
            match until_answered(|| registry.command_outcome(command.id)).await {
                Some(CommandOutcome::Relay { state }) => OrderNews::Read(state.relay()),
                Some(CommandOutcome::Refused { .. }) => OrderNews::Refused,
                Some(
                    CommandOutcome::Expired { .. }
                    | CommandOutcome::Withdrawn
                    | CommandOutcome::Token { .. },
                )
                | None => OrderNews::Silent,
            }
        })
    }

    fn call_back(&self, order: OrderRow) -> BoxFuture<'static, ()> {
        let (registry, new) = (Arc::clone(&self.registry), self.command(&order));
        Box::pin(async move {
            // The key finds the command of the attempt; one never recorded is withdrawn unsent.
            if let Some(command) = until_answered(|| registry.command(&new)).await {
                until_answered(|| registry.withdraw_command(command.id)).await;
            }
        })
    }
}

/// Dispatches orders until the books stop.
pub async fn run(
    mut told: UnboundedReceiver<OrderRow>,
    registry: Arc<Registry>,
    relays: Arc<dyn Relays>,
    now: Now,
) {
    let mut desk =
        Dispatcher { registry, relays, now, turns: Turns::default(), out: JoinSet::new() };
    desk.resume().await;
    let mut look = tokio::time::interval(LOOK);
    let mut rows = Vec::new();
    loop {
        tokio::select! {
            count = told.recv_many(&mut rows, STEPS_MAX) => {
                if count == 0 {
                    return;
                }
                desk.take(std::mem::take(&mut rows)).await;
            }
            _ = look.tick(), if !desk.turns.waiting.is_empty() => desk.tell_due().await,
            Some(_) = desk.out.join_next() => {}
        }
    }
}

/// When which order is due.
#[derive(Debug, Default)]
struct Turns {
    waiting: BTreeMap<OrderId, (UnixSeconds, OrderRow)>,
    /// By transformer: when the next disconnection may go.
    free_at: BTreeMap<TransformerId, UnixSeconds>,
}

impl Turns {
    /// Gives an order its turn.
    fn wait(&mut self, row: OrderRow, now: UnixSeconds, (stagger_s, retry_s): (u32, u32)) {
        let mut due = if row.attempt == 0 { now } else { now.plus(retry_s) };
        if row.kind == OrderKind::Disconnect && row.transformer.is_some() {
            let free_at = self.free_at.entry(row.transformer).or_default();
            due = due.max(*free_at);
            *free_at = due.plus(stagger_s);
        }
        self.waiting.insert(row.order, (due, row));
    }

    /// Takes out the orders whose turn has come.
    fn due(&mut self, now: UnixSeconds) -> Vec<OrderRow> {
        let due = self.waiting.extract_if(.., |_, (at, _)| *at <= now);
        let due = due.map(|(_, (_, row))| row).collect();
        self.free_at.retain(|_, free_at| *free_at > now);
        due
    }
}

struct Dispatcher {
    registry: Arc<Registry>,
    relays: Arc<dyn Relays>,
    now: Now,
    turns: Turns,
    /// Attempts on their way.
    out: JoinSet<()>,
}

impl Dispatcher {
    /// Goes on with the orders that were under way when the process before ended.
    async fn resume(&mut self) {
        let mut after = OrderId::NONE;
        loop {
            let page = || self.registry.orders(AccountId::NONE, true, after, PAGE);
            let Some(open) = until_answered(page).await else { return };
            let Some(last) = open.last() else { return };
            after = last.order;
            info!(orders = open.len(), "orders under way are taken up again");
            self.act(open).await;
        }
    }

    async fn take(&mut self, rows: Vec<OrderRow>) {
        until_answered(|| self.registry.keep_orders(&rows)).await;
        self.act(rows).await;
    }

    async fn act(&mut self, rows: Vec<OrderRow>) {
        let policy = until_answered(|| self.registry.supply_policy()).await;
        let policy = policy.unwrap_or_else(SupplyPolicy::standard);
        for row in rows {
            self.turns.waiting.remove(&row.order);
            match row.state {
                OrderState::Decided if row.kind == OrderKind::Reconnect && row.attempt == 0 => {
                    // Its "sent" is on the way already.
                }
                OrderState::Decided => {
                    let pauses = (policy.stagger_s, policy.retry_s);
                    self.turns.wait(row, (self.now)(), pauses);
                }
                OrderState::Sent => self.carry(row),
                OrderState::Void | OrderState::Expired if row.attempt > 0 => {
                    self.out.spawn(self.relays.call_back(row));
                }
                OrderState::Void | OrderState::Expired | OrderState::Done | OrderState::Failed => {}
            }
        }
        self.tell_due().await;
    }

    /// Hands an attempt over, and tells the books what came of it.
    fn carry(&mut self, row: OrderRow) {
        let (registry, relays) = (Arc::clone(&self.registry), Arc::clone(&self.relays));
        let now = Arc::clone(&self.now);
        self.out.spawn(async move {
            let news = relays.carry(row).await;
            tell(&registry, &row, news, now()).await;
        });
    }

    async fn tell_due(&mut self) {
        let now = (self.now)();
        for row in self.turns.due(now) {
            tell(&self.registry, &row, OrderNews::Due, now).await;
        }
    }
}

async fn tell(registry: &Registry, row: &OrderRow, news: OrderNews, at: UnixSeconds) {
    let report = OrderReport { account: row.account, order: row.order, news, at };
    until_answered(|| registry.report_order(report)).await;
}

/// Asks the registry until it answers: an order is not forgotten because a disk is slow. `None` when
/// it refuses, which no order of ours should meet.
async fn until_answered<T, F>(ask: impl Fn() -> F) -> Option<T>
where
    F: Future<Output = Result<T, RegistryError>>,
{
    loop {
        match ask().await {
            Ok(answer) => return Some(answer),
            Err(RegistryError::Refused(refusal)) => {
                error!(%refusal, "the registry refuses an order's step");
                return None;
            }
            Err(error) => {
                warn!(%error, "an order waits for the registry");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meter::{MeterId, Money, OrderReason, Seq};

    fn row(account: u32, transformer: u32, kind: OrderKind, attempt: u8) -> OrderRow {
        OrderRow {
            order: OrderId::new(AccountId(account), 1),
            account: AccountId(account),
            meter: MeterId(account),
            transformer: TransformerId(transformer),
            kind,
            state: OrderState::Decided,
            reason: OrderReason::Overdrawn,
            attempt,
            balance: Money::ZERO,
            at: UnixSeconds(0),
            expires_at: UnixSeconds(9999),
            seq: Seq(1),
        }
    }

    #[test]
    fn disconnections_below_a_transformer_go_one_at_a_time() {
        use OrderKind::{Disconnect, Reconnect};
        let mut turns = Turns::default();
        let pauses = (10, 60);
        for account in 1..=3 {
            turns.wait(row(account, 7, Disconnect, 0), UnixSeconds(100), pauses);
        }
        turns.wait(row(4, 8, Disconnect, 0), UnixSeconds(100), pauses);
        turns.wait(row(5, 7, Reconnect, 1), UnixSeconds(100), pauses);
        turns.wait(row(6, 0, Disconnect, 0), UnixSeconds(100), pauses);
        let due = |turns: &mut Turns, at| -> Vec<u32> {
            turns.due(UnixSeconds(at)).iter().map(|row| row.account.0).collect()
        };
        assert_eq!(due(&mut turns, 100), [1, 4, 6]);
        assert_eq!(due(&mut turns, 109), [0_u32; 0]);
        assert_eq!(due(&mut turns, 110), [2]);
        assert_eq!(due(&mut turns, 120), [3]);
        assert_eq!(due(&mut turns, 160), [5], "a second attempt, after its pause");
        assert!(turns.free_at.is_empty(), "nothing is kept of transformers at rest");
    }
}
