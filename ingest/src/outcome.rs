//! What became of every datagram and frame: exactly one [`Outcome`] each. And why connections
//! ended: exactly one [`Ending`] each.

macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident => $label:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// Every value, in the order of its index.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The label in metrics.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label),* }
            }

            pub(crate) const fn index(self) -> usize {
                self as usize
            }
        }
    };
}

labels! {
    /// What became of one datagram (or one piece of a coalesced one) or one frame of a stream.
    ///
    /// A frame in memory whose batch the log has not answered has none yet: it is in flight.
    Outcome {
        /// Its entries are durable.
        Accepted => "accepted",
        /// A meter's answer to a command.
        Answered => "answered",
        /// An answer that nobody waits for (any more).
        Unasked => "unasked",
        /// The log could not take its batch; the device sends again.
        RefusedByLog => "refused_by_log",
        /// The node stopped before the log answered.
        Abandoned => "abandoned",
        /// No device is registered under its system title, or none is named.
        UnknownDevice => "unknown_device",
        /// The authentication tag does not fit: wrong key, or not from this device.
        BadTag => "bad_tag",
        /// Its invocation counter was accepted before.
        Replayed => "replayed",
        /// Its invocation counter lies behind the replay window, or is 0.
        CounterTooOld => "counter_too_old",
        /// Longer than the limit.
        Oversized => "oversized",
        /// The stream ended, or its age limit passed, in the middle of the frame.
        Truncated => "truncated",
        /// The wrapper around it does not read.
        BadWrapper => "bad_wrapper",
        /// The security header does not read.
        BadSecurityHeader => "bad_security_header",
        /// Not ciphered, or with a protection that does not authenticate.
        UnsupportedSecurity => "unsupported_security",
        /// Authentic, but not a data-notification.
        WrongService => "wrong_service",
        /// Authentic, but the notification or its body does not read.
        BadBody => "bad_body",
        /// Authentic and well formed, but its template finds neither a reading nor an event in it.
        NotAReading => "not_a_reading",
        /// A gateway's batch names a meter that is not registered behind this gateway.
        ForeignMeter => "foreign_meter",
        /// A session that belongs to one gateway brought another's frame.
        ForeignGateway => "foreign_gateway",
        /// Its source failed authentication too often of late.
        RateLimited => "rate_limited",
        /// The node holds as many sessions as it may.
        SessionLimit => "session_limit",
    }
}

labels! {
    /// Why a TCP connection ended.
    Ending {
        /// The other side closed it.
        Closed => "closed",
        /// The socket failed.
        Failed => "failed",
        /// The node holds as many connections as it may, or has no file left.
        ConnectionLimit => "connection_limit",
        /// Its source failed authentication too often of late.
        RateLimited => "rate_limited",
        /// A frame on it was refused.
        Refused => "refused",
        /// No authentic frame in time.
        HelloDeadline => "hello_deadline",
        /// A frame begun was not finished in time.
        FrameDeadline => "frame_deadline",
        /// Nothing was heard for too long.
        Idle => "idle",
        /// It does not read its acknowledgements.
        SlowReader => "slow_reader",
        /// The node stopped.
        Shutdown => "shutdown",
    }
}

impl Outcome {
    /// Whether it counts against the source: somebody there has no key.
    pub(crate) const fn is_authentication_failure(self) -> bool {
        matches!(self, Self::UnknownDevice | Self::BadTag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_dense_and_labels_unique() {
        assert!(Outcome::ALL.iter().enumerate().all(|(at, outcome)| outcome.index() == at));
        assert!(Ending::ALL.iter().enumerate().all(|(at, ending)| ending.index() == at));
        let mut labels: Vec<_> = Outcome::ALL.iter().map(|outcome| outcome.label()).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), Outcome::ALL.len());
    }
}
