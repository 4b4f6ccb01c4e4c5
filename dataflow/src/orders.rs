//! An order to a relay, as a state machine: what may follow from where it stands. When an order is
//! made, and whether it still holds, is decided beside this file.

use meter::{MeterId, OrderKind, OrderReason, OrderState, Relay, SupplyPolicy, UnixSeconds};

use crate::snapshot::layout;

/// An order that is not over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Order {
    /// Of the account's orders, from 1.
    pub(crate) number: u32,
    pub(crate) kind: OrderKind,
    pub(crate) state: OrderState,
    /// How often it was sent.
    pub(crate) attempt: u8,
    pub(crate) meter: MeterId,
    pub(crate) expires_at: UnixSeconds,
}

layout!(Order { number, kind, state, attempt, meter, expires_at });

/// What happens to an order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    /// Its turn has come, and the decision made again says this.
    Due(Result<OrderReason, OrderReason>),
    /// The relay was read back.
    Read(Relay),
    /// The meter refused.
    Refused,
    /// The meter did not answer.
    Silent,
    /// What it was for is over.
    Void(OrderReason),
    /// Time passed.
    Time(UnixSeconds),
}

impl Order {
    /// Takes a step; `None` when nothing follows from it, as from a word that comes twice.
    pub(crate) fn step(&mut self, step: Step, policy: &SupplyPolicy) -> Option<OrderReason> {
        use OrderState::{Decided, Done, Expired, Failed, Sent, Void};
        let (state, reason) = match (self.state, step) {
            (Decided | Sent, Step::Time(now)) if now >= self.expires_at => {
                (Expired, OrderReason::Late)
            }
            (Decided | Sent, Step::Void(reason)) => (Void, reason),
            (Decided, Step::Due(Ok(reason))) => {
                self.attempt = self.attempt.saturating_add(1);
                (Sent, reason)
            }
            (Decided, Step::Due(Err(reason))) => (Void, reason),
            (Sent, Step::Read(relay)) if relay == self.wanted() => (Done, OrderReason::Relay),
            (Sent, Step::Read(_)) => (self.again(policy), OrderReason::Relay),
            (Sent, Step::Refused) => (self.again(policy), OrderReason::Refused),
            (Sent, Step::Silent) => (self.again(policy), OrderReason::Silent),
            (Decided, Step::Read(_) | Step::Refused | Step::Silent)
            | (Sent, Step::Due(_))
            | (Decided | Sent, Step::Time(_))
            | (Done | Void | Expired | Failed, _) => return None,
        };
        self.state = state;
        debug_assert!(state != Failed || self.attempt >= policy.attempts_max);
        Some(reason)
    }

    /// How the relay is to stand in the end.
    pub(crate) const fn wanted(&self) -> Relay {
        match self.kind {
            OrderKind::Disconnect => Relay::Open,
            OrderKind::Reconnect => Relay::Closed,
        }
    }

    /// After an attempt that came to nothing: it waits for its turn again, or it has failed.
    const fn again(&self, policy: &SupplyPolicy) -> OrderState {
        if self.attempt < policy.attempts_max { OrderState::Decided } else { OrderState::Failed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use OrderReason::{Late, Overdrawn, Paid, Refused, Silent};
    use OrderState::{Decided, Done, Expired, Failed, Sent, Void};

    fn order(state: OrderState, attempt: u8) -> Order {
        Order {
            number: 1,
            kind: OrderKind::Disconnect,
            state,
            attempt,
            meter: MeterId(1),
            expires_at: UnixSeconds(100),
        }
    }

    #[test]
    fn every_state_and_every_step() {
        let policy = SupplyPolicy { attempts_max: 2, ..SupplyPolicy::standard() };
        let check = |state, attempt, step, want: Option<(OrderState, OrderReason)>| {
            let mut got = order(state, attempt);
            let reason = got.step(step, &policy);
            let stands = reason.map(|reason| (got.state, reason));
            assert_eq!(stands, want, "{state:?} after {attempt} attempts, {step:?}");
            if want.is_none() {
                assert_eq!(got, order(state, attempt), "{state:?} {step:?} changes nothing");
            }
        };
        check(Decided, 0, Step::Due(Ok(Overdrawn)), Some((Sent, Overdrawn)));
        check(Decided, 0, Step::Due(Err(Paid)), Some((Void, Paid)));
        check(Decided, 0, Step::Void(Paid), Some((Void, Paid)));
        check(Decided, 0, Step::Time(UnixSeconds(99)), None);
        check(Decided, 0, Step::Time(UnixSeconds(100)), Some((Expired, Late)));
        check(Decided, 0, Step::Read(Relay::Open), None);
        check(Sent, 1, Step::Due(Ok(Overdrawn)), None);
        check(Sent, 1, Step::Read(Relay::Open), Some((Done, OrderReason::Relay)));
        check(Sent, 1, Step::Read(Relay::Closed), Some((Decided, OrderReason::Relay)));
        check(Sent, 2, Step::Read(Relay::Closed), Some((Failed, OrderReason::Relay)));
        check(Sent, 1, Step::Refused, Some((Decided, Refused)));
        check(Sent, 2, Step::Silent, Some((Failed, Silent)));
        check(Sent, 1, Step::Void(Paid), Some((Void, Paid)));
        check(Sent, 1, Step::Time(UnixSeconds(101)), Some((Expired, Late)));
        let all = [
            Step::Due(Ok(Overdrawn)),
            Step::Read(Relay::Open),
            Step::Refused,
            Step::Silent,
            Step::Void(Paid),
            Step::Time(UnixSeconds(200)),
        ];
        for state in [Done, Void, Expired, Failed] {
            all.into_iter().for_each(|step| check(state, 1, step, None));
        }
    }
}
