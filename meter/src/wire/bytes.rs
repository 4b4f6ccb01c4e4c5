//! Cursors over the bytes of a frame: reading borrows, writing fills a caller's buffer.

use super::{Fault, WireError};

/// Reads big-endian values off the front of a slice and knows its offset.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    left: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// A reader of all of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { left: bytes, at: 0 }
    }

    /// How many bytes were read.
    #[must_use]
    pub const fn at(&self) -> usize {
        self.at
    }

    /// The bytes not read yet.
    #[must_use]
    pub const fn left(&self) -> &'a [u8] {
        self.left
    }

    /// `fault` at the current offset.
    #[must_use]
    pub const fn fault(&self, fault: Fault) -> WireError {
        WireError::new(fault, self.at)
    }

    /// The next byte, left where it is.
    #[must_use]
    pub fn peek(&self) -> Option<u8> {
        self.left.first().copied()
    }

    /// The next byte.
    ///
    /// # Errors
    /// [`Fault::Truncated`] when there is none; so for every method that takes bytes.
    #[inline]
    pub fn u8(&mut self) -> Result<u8, WireError> {
        self.array().map(u8::from_be_bytes)
    }

    /// The next two bytes.
    ///
    /// # Errors
    /// [`Fault::Truncated`].
    #[inline]
    pub fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_be_bytes)
    }

    /// The next four bytes.
    ///
    /// # Errors
    /// [`Fault::Truncated`].
    #[inline]
    pub fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_be_bytes)
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// [`Fault::Truncated`].
    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (taken, left) = self.left.split_first_chunk().ok_or_else(|| self.short(N))?;
        self.left = left;
        self.at = self.at.saturating_add(N);
        Ok(*taken)
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// [`Fault::Truncated`].
    #[inline]
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (taken, left) = self.left.split_at_checked(count).ok_or_else(|| self.short(count))?;
        self.left = left;
        self.at = self.at.saturating_add(count);
        Ok(taken)
    }

    /// A length as A-XDR and BER code it: below 128 one byte, else 0x81 to 0x84 and as many bytes.
    ///
    /// # Errors
    /// [`Fault::LengthCoding`] for another form, [`Fault::Truncated`].
    #[inline]
    pub fn length(&mut self) -> Result<usize, WireError> {
        match self.u8()? {
            short @ 0..=0x7F => Ok(usize::from(short)),
            form => self.long_length(form),
        }
    }

    #[inline(never)]
    fn long_length(&mut self, form: u8) -> Result<usize, WireError> {
        let form_at = self.at.saturating_sub(1);
        let bytes = match form {
            0x81 => [0, 0, 0, self.u8()?],
            0x82 => {
                let [c, d] = self.array()?;
                [0, 0, c, d]
            }
            0x83 => {
                let [b, c, d] = self.array()?;
                [0, b, c, d]
            }
            0x84 => self.array()?,
            _ => return Err(WireError::new(Fault::LengthCoding(form), form_at)),
        };
        usize::try_from(u32::from_be_bytes(bytes))
            .map_err(|_| WireError::new(Fault::Length(usize::MAX), form_at))
    }

    /// A length and as many bytes.
    ///
    /// # Errors
    /// Those of [`Self::length`] and [`Self::take`].
    #[inline]
    pub fn sized(&mut self) -> Result<&'a [u8], WireError> {
        let length = self.length()?;
        self.take(length)
    }

    /// Nothing may be left.
    ///
    /// # Errors
    /// [`Fault::Trailing`] when something is.
    pub const fn finish(&self) -> Result<(), WireError> {
        match self.left.len() {
            0 => Ok(()),
            count => Err(self.fault(Fault::Trailing { count })),
        }
    }

    const fn short(&self, wanted: usize) -> WireError {
        self.fault(Fault::Truncated { missing: wanted.saturating_sub(self.left.len()) })
    }
}

/// Writes big-endian values one after the other into a caller's buffer.
#[derive(Debug)]
pub struct Writer<'b> {
    buf: &'b mut [u8],
    size: usize,
}

impl<'b> Writer<'b> {
    /// A writer from the start of `buf`.
    #[must_use]
    pub const fn new(buf: &'b mut [u8]) -> Self {
        Self { buf, size: 0 }
    }

    /// How many bytes were written.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.size
    }

    /// The bytes written.
    #[must_use]
    pub fn written(self) -> &'b mut [u8] {
        self.buf.get_mut(..self.size).unwrap_or_default()
    }

    /// Appends `bytes`.
    ///
    /// # Errors
    /// [`Fault::Full`] when the buffer has no room; so for every method that appends.
    pub fn put(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        self.put_mut(bytes).map(|_| ())
    }

    /// Appends `bytes` and lends the copy, to be changed in place.
    ///
    /// # Errors
    /// [`Fault::Full`].
    pub fn put_mut(&mut self, bytes: &[u8]) -> Result<&mut [u8], WireError> {
        let full = WireError::new(Fault::Full, self.size);
        let end = self.size.checked_add(bytes.len()).ok_or(full)?;
        let copy = self.buf.get_mut(self.size..end).ok_or(full)?;
        copy.copy_from_slice(bytes);
        self.size = end;
        Ok(copy)
    }

    /// Appends a byte.
    ///
    /// # Errors
    /// [`Fault::Full`].
    pub fn u8(&mut self, byte: u8) -> Result<(), WireError> {
        self.put(&[byte])
    }

    /// Appends two bytes.
    ///
    /// # Errors
    /// [`Fault::Full`].
    pub fn u16(&mut self, value: u16) -> Result<(), WireError> {
        self.put(&value.to_be_bytes())
    }

    /// Appends four bytes.
    ///
    /// # Errors
    /// [`Fault::Full`].
    pub fn u32(&mut self, value: u32) -> Result<(), WireError> {
        self.put(&value.to_be_bytes())
    }

    /// Appends a length in the shortest form.
    ///
    /// # Errors
    /// [`Fault::Full`], [`Fault::Length`] above 32 bits.
    pub fn length(&mut self, length: usize) -> Result<(), WireError> {
        let wide = u32::try_from(length)
            .map_err(|_| WireError::new(Fault::Length(length), self.size))?
            .to_be_bytes();
        match wide {
            [0, 0, 0, d @ 0..=0x7F] => self.u8(d),
            [0, 0, 0, d] => self.put(&[0x81, d]),
            [0, 0, c, d] => self.put(&[0x82, c, d]),
            [0, b, c, d] => self.put(&[0x83, b, c, d]),
            [a, b, c, d] => self.put(&[0x84, a, b, c, d]),
        }
    }

    /// Appends a length and as many bytes.
    ///
    /// # Errors
    /// Those of [`Self::length`] and [`Self::put`].
    pub fn sized(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        self.length(bytes.len())?;
        self.put(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], want: Result<usize, Fault>) {
        assert_eq!(Reader::new(bytes).length().map_err(|e| e.fault), want, "bytes={bytes:02x?}");
    }

    #[test]
    fn length_cases() {
        check(&[0x00], Ok(0));
        check(&[0x7F], Ok(127));
        check(&[0x81, 0x80], Ok(128));
        check(&[0x82, 0x01, 0x55], Ok(341));
        check(&[0x84, 0xFF, 0xFF, 0xFF, 0xFF], Ok(0xFFFF_FFFF));
        check(&[], Err(Fault::Truncated { missing: 1 }));
        check(&[0x82, 0x01], Err(Fault::Truncated { missing: 1 }));
        check(&[0x80], Err(Fault::LengthCoding(0x80)));
        check(&[0x85, 0, 0, 0, 0, 0], Err(Fault::LengthCoding(0x85)));
        check(&[0xFC], Err(Fault::LengthCoding(0xFC)));
    }

    #[test]
    fn length_round_trip() {
        for length in [0, 1, 127, 128, 255, 256, 65535, 65536, 0xFF_FFFF, 0x100_0000] {
            let mut buf = [0; 5];
            let mut writer = Writer::new(&mut buf);
            writer.length(length).unwrap();
            check(writer.written(), Ok(length));
        }
    }

    #[test]
    fn a_full_buffer_is_refused_and_kept() {
        let mut buf = [0; 3];
        let mut writer = Writer::new(&mut buf);
        writer.u16(0x0102).unwrap();
        assert_eq!(writer.u16(0x0304), Err(WireError::new(Fault::Full, 2)));
        assert_eq!(writer.written(), [1, 2]);
    }
}
