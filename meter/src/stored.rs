//! How values are laid down in the log and the spool: fixed width, little endian, field by field
//! in the order of the declaration. A layout never changes; a new one gets a new tag.

use crate::{
    AccountId, Current, Energy, Fields, Frequency, FriendlyId, GatewayId, MeterId, Money, OrderId,
    Power, PowerFactor, ReactivePower, Reading, Seq, TransformerId, UnixSeconds, Voltage,
};

/// A value with a fixed layout on disk.
pub trait Stored: Sized {
    /// Appends the value.
    fn put(&self, out: &mut Vec<u8>);

    /// Takes a value off the front; `None` when the bytes are not one.
    fn take(bytes: &mut &[u8]) -> Option<Self>;
}

macro_rules! stored_integers {
    ($($int:ty),*) => {$(
        impl Stored for $int {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            fn take(bytes: &mut &[u8]) -> Option<Self> {
                let (head, rest) = bytes.split_first_chunk()?;
                *bytes = rest;
                Some(Self::from_le_bytes(*head))
            }
        }
    )*};
}

stored_integers!(u8, u16, u32, u64, i16, i32, i64);

macro_rules! stored_newtypes {
    ($($name:ident($int:ty) = $from:expr, $value:expr;)*) => {$(
        impl Stored for $name {
            fn put(&self, out: &mut Vec<u8>) {
                let value: $int = $value(*self);
                value.put(out);
            }

            fn take(bytes: &mut &[u8]) -> Option<Self> {
                <$int>::take(bytes).map($from)
            }
        }
    )*};
}

stored_newtypes! {
    MeterId(u32) = MeterId, |v: MeterId| v.0;
    AccountId(u32) = AccountId, |v: AccountId| v.0;
    GatewayId(u32) = GatewayId, |v: GatewayId| v.0;
    TransformerId(u32) = TransformerId, |v: TransformerId| v.0;
    FriendlyId(u32) = FriendlyId, |v: FriendlyId| v.0;
    OrderId(u64) = OrderId, |v: OrderId| v.0;
    Seq(u64) = Seq, |v: Seq| v.0;
    UnixSeconds(u32) = UnixSeconds, |v: UnixSeconds| v.0;
    Fields(u16) = Fields, |v: Fields| v.0;
    Energy(u64) = Energy::from_wh, Energy::wh;
    Money(i64) = Money::from_ticks, Money::ticks;
    Voltage(u32) = Voltage::from_mv, Voltage::mv;
    Current(u32) = Current::from_ma, Current::ma;
    Power(i32) = Power::from_w, Power::w;
    ReactivePower(i32) = ReactivePower::from_var, ReactivePower::var;
    Frequency(u32) = Frequency::from_mhz, Frequency::mhz;
    PowerFactor(i16) = PowerFactor::from_milli, PowerFactor::milli;
}

impl<T: Stored> Stored for Box<T> {
    fn put(&self, out: &mut Vec<u8>) {
        T::put(self, out);
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        T::take(bytes).map(Self::new)
    }
}

impl<T: Stored + Copy + Default, const N: usize> Stored for [T; N] {
    fn put(&self, out: &mut Vec<u8>) {
        self.iter().for_each(|item| item.put(out));
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        let mut items = [T::default(); N];
        for item in &mut items {
            *item = T::take(bytes)?;
        }
        Some(items)
    }
}

/// A count and the items. The count is a claim: memory grows only with items that are there.
impl<T: Stored> Stored for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        u32::try_from(self.len()).expect("a batch has fewer than 2^32 items").put(out);
        self.iter().for_each(|item| item.put(out));
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        let count = u32::take(bytes)?;
        (0..count).map(|_| T::take(bytes)).collect()
    }
}

/// Gives a struct its layout: its fields, in this order.
macro_rules! stored_struct {
    ($name:ident { $($field:ident),* $(,)? }) => {
        impl $crate::Stored for $name {
            fn put(&self, out: &mut Vec<u8>) {
                $($crate::Stored::put(&self.$field, out);)*
            }

            fn take(bytes: &mut &[u8]) -> Option<Self> {
                Some(Self { $($field: $crate::Stored::take(bytes)?),* })
            }
        }
    };
}

/// Gives a field-less enum its code: one byte a variant; other bytes are no value.
macro_rules! stored_codes {
    ($name:ident { $($variant:ident = $code:literal),* $(,)? }) => {
        impl $name {
            /// Every value, in order of its code.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The code of this value, fixed for ever.
            #[must_use]
            pub const fn code(self) -> u8 {
                match self { $(Self::$variant => $code),* }
            }

            /// The value of a code.
            #[must_use]
            pub const fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)* _ => None }
            }
        }

        impl $crate::Stored for $name {
            fn put(&self, out: &mut Vec<u8>) {
                out.push(self.code());
            }

            fn take(bytes: &mut &[u8]) -> Option<Self> {
                u8::take(bytes).and_then(Self::from_code)
            }
        }
    };
}

pub(crate) use {stored_codes, stored_struct};

stored_struct!(Reading {
    meter,
    taken_at,
    received_at,
    counter,
    register,
    rates,
    voltage,
    current,
    power,
    reactive,
    frequency,
    power_factor,
    fields,
});
