//! Security suite 0: AES-128-GCM with a 12-byte tag, over whole APDUs.
//!
//! | bytes | what |
//! | --- | --- |
//! | 1 | tag: DB general-glo, DC general-ded, C8-CF glo-…, D0-D7 ded-…, 21 and 28 glo-initiate-… |
//! | 1 + 8 | length 8 and the sender's system title (general-… only) |
//! | 1-5 | length of the rest |
//! | 1 | security control: low nibble suite, 10 authenticated, 20 encrypted, 40 broadcast key, 80 compressed |
//! | 4 | invocation counter |
//! | n | content |
//! | 12 | tag, when authenticated |
//!
//! The nonce is system title and invocation counter. The additional data are security control and
//! authentication key (and the plain content, when it is not encrypted).
//!
//! Keys are expanded for each frame: a cached key schedule costs as much in cache misses as the
//! schedule itself once there are many meters.
//!
//! Over 500 lines with its tests: the code of one byte layout stays in one file.

use std::fmt;

use aes_gcm::aead::{AeadInOut, KeyInit, consts::U12};
use aes_gcm::{AesGcm, aes::Aes128};

use super::super::{Fault, Reader, WireError, Writer};
use super::tag;

/// Bytes of an authentication tag.
pub const TAG_SIZE: usize = 12;

const HEADER_SIZE: usize = 5;
const TITLE_SIZE: usize = 8;

type Gcm = AesGcm<Aes128, U12, U12>;

/// The two keys a device shares with the head-end. Debug shows neither.
#[derive(Clone, Copy)]
pub struct Keys<'k> {
    /// The global unicast encryption key.
    pub encryption: &'k [u8; 16],
    /// The authentication key.
    pub authentication: &'k [u8; 16],
}

impl fmt::Debug for Keys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(***)")
    }
}

/// The byte that says how a frame is protected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SecurityControl(pub u8);

impl SecurityControl {
    /// Authenticated, in the clear.
    pub const AUTHENTICATED: Self = Self(0x10);
    /// Encrypted, without a tag: whoever flips a bit of it flips a bit of the content. Some
    /// Austrian meters send it; a head-end should refuse it unless told otherwise per meter.
    pub const ENCRYPTED: Self = Self(0x20);
    /// Authenticated and encrypted: the normal case.
    pub const BOTH: Self = Self(0x30);

    /// Whether the frame carries a tag.
    #[must_use]
    pub const fn is_authenticated(self) -> bool {
        self.0 & 0x10 != 0
    }

    /// Whether the content is encrypted.
    #[must_use]
    pub const fn is_encrypted(self) -> bool {
        self.0 & 0x20 != 0
    }
}

/// What a ciphered APDU says in the clear.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ciphered {
    /// The APDU's tag.
    pub tag: u8,
    /// Who sent it; `None` in the glo-… and ded-… services, where the association knows.
    pub title: Option<[u8; TITLE_SIZE]>,
    /// The protection.
    pub control: SecurityControl,
    /// The sender's counter; never used twice with one key.
    pub invocation_counter: u32,
    /// The length that the APDU claims for security header, content and tag.
    pub length: usize,
    /// Where the content begins in the APDU.
    content_at: usize,
}

impl Ciphered {
    /// Whether an APDU with this tag is ciphered.
    #[must_use]
    pub const fn is(tag: u8) -> bool {
        matches!(tag, tag::GENERAL_GLO_CIPHERING | tag::GENERAL_DED_CIPHERING)
            || Self::is_service(tag)
    }

    /// Whether an APDU with this tag is a ciphered service, which does not say its sender.
    const fn is_service(tag: u8) -> bool {
        matches!(tag, 0xC8..=0xD7 | 0x21 | 0x28)
    }

    /// Reads the clear part of a complete ciphered APDU, without a key.
    ///
    /// # Errors
    /// Those of [`Self::peek_cut`], [`Fault::Truncated`] and [`Fault::Trailing`].
    pub fn peek(apdu: &[u8]) -> Result<Self, WireError> {
        let header = Self::peek_cut(apdu)?;
        let mut reader = Reader::new(apdu);
        reader.take(header.content_at)?;
        reader.take(header.length.saturating_sub(HEADER_SIZE))?;
        reader.finish()?;
        Ok(header)
    }

    /// As [`Self::peek`], for an APDU that may be cut short or run on.
    ///
    /// # Errors
    /// [`Fault::Apdu`] for a tag that is not ciphered, [`Fault::SystemTitle`],
    /// [`Fault::Length`] when it cannot hold header and tag, [`Fault::Truncated`].
    pub fn peek_cut(apdu: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(apdu);
        let tag = reader.u8()?;
        if !Self::is(tag) {
            return Err(WireError::new(Fault::Apdu(tag), 0));
        }
        let title = match tag {
            tag::GENERAL_GLO_CIPHERING | tag::GENERAL_DED_CIPHERING => {
                let start = reader;
                match reader.length()? {
                    TITLE_SIZE => Some(reader.array()?),
                    other => return Err(start.fault(Fault::SystemTitle(other))),
                }
            }
            _ => None,
        };
        let start = reader;
        let length = reader.length()?;
        let control = SecurityControl(reader.u8()?);
        let invocation_counter = reader.u32()?;
        let tag_size = if control.is_authenticated() { TAG_SIZE } else { 0 };
        if length < HEADER_SIZE.saturating_add(tag_size) {
            return Err(start.fault(Fault::Length(length)));
        }
        let content_at = reader.at();
        Ok(Self { tag, title, control, invocation_counter, length, content_at })
    }

    /// The content and tag of the APDU this was read from, still ciphered.
    #[must_use]
    pub fn content<'a>(&self, apdu: &'a [u8]) -> &'a [u8] {
        apdu.get(self.content_at..).unwrap_or_default()
    }

    /// Opens the authenticated APDU this was read from, in place: the plain APDU inside, in the
    /// same buffer. `title` is the sender's: [`Self::title`], or the association's where that is
    /// `None`.
    ///
    /// # Errors
    /// [`Fault::SecurityControl`] for a protection that suite 0 does not have or that does not
    /// authenticate, [`Fault::Authentication`] (the buffer is unchanged then).
    pub fn open<'b>(
        &self,
        apdu: &'b mut [u8],
        title: [u8; TITLE_SIZE],
        keys: Keys<'_>,
    ) -> Result<&'b mut [u8], WireError> {
        let fault = |fault| WireError::new(fault, self.content_at);
        let short = fault(Fault::Truncated { missing: self.length });
        let crypt = Crypt { title, invocation_counter: self.invocation_counter, keys };
        let content = apdu.get_mut(self.content_at..).ok_or(short)?;
        let (content, tag) = content.split_last_chunk_mut::<TAG_SIZE>().ok_or(short)?;
        let tag = (*tag).into();
        let opened = match self.control {
            SecurityControl::BOTH => crypt.gcm().decrypt_inout_detached(
                &crypt.nonce(),
                &crypt.additional(self.control),
                (&mut *content).into(),
                &tag,
            ),
            SecurityControl::AUTHENTICATED => crypt.gcm().decrypt_inout_detached(
                &crypt.nonce(),
                &crypt.additional_with(self.control, content),
                (&mut [][..]).into(),
                &tag,
            ),
            _ => return Err(self.refused()),
        };
        opened.map_err(|_| fault(Fault::Authentication))?;
        Ok(content)
    }

    /// As [`Self::open`], for a frame that is encrypted without a tag (security control 20), as
    /// some Austrian meters send. Nothing proves who sent it or that it is whole: a separate
    /// method, so that nobody is talked down to it by a changed security control byte.
    ///
    /// # Errors
    /// [`Fault::SecurityControl`] for any other protection.
    pub fn open_unauthenticated<'b>(
        &self,
        apdu: &'b mut [u8],
        title: [u8; TITLE_SIZE],
        keys: Keys<'_>,
    ) -> Result<&'b mut [u8], WireError> {
        if self.control != SecurityControl::ENCRYPTED {
            return Err(self.refused());
        }
        let short = WireError::new(Fault::Truncated { missing: self.length }, self.content_at);
        let content = apdu.get_mut(self.content_at..).ok_or(short)?;
        // Counter mode is its own inverse: sealing again opens; the tag is of no use.
        Crypt { title, invocation_counter: self.invocation_counter, keys }
            .encrypt(self.control, content);
        Ok(content)
    }

    const fn refused(&self) -> WireError {
        let control_at = self.content_at.saturating_sub(HEADER_SIZE);
        WireError::new(Fault::SecurityControl(self.control.0), control_at)
    }
}

/// What it takes to protect an APDU. A pair of key and invocation counter is used **once**.
#[derive(Clone, Copy, Debug)]
pub struct Sealing<'k> {
    /// The protection.
    pub control: SecurityControl,
    /// The sender's system title.
    pub title: [u8; TITLE_SIZE],
    /// The sender's counter, one more than last time.
    pub invocation_counter: u32,
    /// The keys of the pair of devices.
    pub keys: Keys<'k>,
}

impl Sealing<'_> {
    /// Bytes that [`Self::general_glo`] adds to an APDU at most.
    pub const OVERHEAD_MAX: usize = 32;

    /// Writes `plain` as general-glo-ciphering.
    ///
    /// # Errors
    /// [`Fault::Full`]; [`Fault::SecurityControl`] for a protection that suite 0 does not have.
    pub fn general_glo(&self, plain: &[u8], writer: &mut Writer<'_>) -> Result<(), WireError> {
        writer.u8(tag::GENERAL_GLO_CIPHERING)?;
        writer.sized(&self.title)?;
        self.body(plain, writer)
    }

    /// Writes `plain` as the glo-… (or ded-…) service with this `tag`; the receiver knows the
    /// sender's title from the association.
    ///
    /// # Errors
    /// Those of [`Self::general_glo`], [`Fault::Apdu`] for a tag of no such service.
    pub fn glo(&self, tag: u8, plain: &[u8], writer: &mut Writer<'_>) -> Result<(), WireError> {
        if !Ciphered::is_service(tag) {
            return Err(WireError::new(Fault::Apdu(tag), writer.size()));
        }
        writer.u8(tag)?;
        self.body(plain, writer)
    }

    fn body(&self, plain: &[u8], writer: &mut Writer<'_>) -> Result<(), WireError> {
        let refused = WireError::new(Fault::SecurityControl(self.control.0), writer.size());
        let tag_size = if self.control.is_authenticated() { TAG_SIZE } else { 0 };
        writer.length(plain.len().saturating_add(HEADER_SIZE).saturating_add(tag_size))?;
        writer.u8(self.control.0)?;
        writer.u32(self.invocation_counter)?;
        let crypt = Crypt {
            title: self.title,
            invocation_counter: self.invocation_counter,
            keys: self.keys,
        };
        let content = writer.put_mut(plain)?;
        match self.control {
            SecurityControl::AUTHENTICATED => {
                let tag = crypt.authenticate(self.control, content);
                writer.put(&tag)
            }
            SecurityControl::ENCRYPTED => {
                crypt.encrypt(self.control, content);
                Ok(())
            }
            SecurityControl::BOTH => {
                let tag = crypt.encrypt(self.control, content);
                writer.put(&tag)
            }
            _ => Err(refused),
        }
    }
}

/// The tag that answers a challenge in high-level security with GMAC (mechanism 5), under
/// security control 10.
#[must_use]
pub fn hls_gmac(
    title: [u8; TITLE_SIZE],
    invocation_counter: u32,
    keys: Keys<'_>,
    challenge: &[u8],
) -> [u8; TAG_SIZE] {
    Crypt { title, invocation_counter, keys }
        .authenticate(SecurityControl::AUTHENTICATED, challenge)
}

struct Crypt<'k> {
    title: [u8; TITLE_SIZE],
    invocation_counter: u32,
    keys: Keys<'k>,
}

impl Crypt<'_> {
    fn gcm(&self) -> Gcm {
        Gcm::new(self.keys.encryption.into())
    }

    fn nonce(&self) -> aes_gcm::Nonce<U12> {
        let [t0, t1, t2, t3, t4, t5, t6, t7] = self.title;
        let [c3, c2, c1, c0] = self.invocation_counter.to_be_bytes();
        [t0, t1, t2, t3, t4, t5, t6, t7, c3, c2, c1, c0].into()
    }

    fn additional(&self, control: SecurityControl) -> [u8; 17] {
        let mut data = [control.0; 17];
        let (_, key) = data.split_at_mut(1);
        key.copy_from_slice(self.keys.authentication);
        data
    }

    /// The additional data of content in the clear. The one place that allocates, because the
    /// cipher takes them in one piece; bounded by the content at hand.
    fn additional_with(&self, control: SecurityControl, content: &[u8]) -> Vec<u8> {
        [&self.additional(control)[..], content].concat()
    }

    /// Encrypts in place; the tag.
    fn encrypt(&self, control: SecurityControl, content: &mut [u8]) -> [u8; TAG_SIZE] {
        self.gcm()
            .encrypt_inout_detached(&self.nonce(), &self.additional(control), content.into())
            .expect("a frame is shorter than 64 GiB")
            .into()
    }

    /// The tag of content in the clear.
    fn authenticate(&self, control: SecurityControl, content: &[u8]) -> [u8; TAG_SIZE] {
        let additional = self.additional_with(control, content);
        self.gcm()
            .encrypt_inout_detached(&self.nonce(), &additional, (&mut [][..]).into())
            .expect("a frame is shorter than 64 GiB")
            .into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ENCRYPTION: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    const AUTHENTICATION: [u8; 16] = [
        0xD0, 0xD1, 0xD2, 0xD3, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, 0xDE,
        0xDF,
    ];
    const KEYS: Keys<'_> = Keys { encryption: &ENCRYPTION, authentication: &AUTHENTICATION };
    const TITLE: [u8; 8] = [0x4D, 0x4D, 0x4D, 0x00, 0x00, 0xBC, 0x61, 0x4E];

    fn sealed(control: SecurityControl, plain: &[u8]) -> Vec<u8> {
        let sealing =
            Sealing { control, title: TITLE, invocation_counter: 0x0123_4567, keys: KEYS };
        let mut buf = vec![0; plain.len() + Sealing::OVERHEAD_MAX];
        let mut writer = Writer::new(&mut buf);
        sealing.general_glo(plain, &mut writer).unwrap();
        writer.written().to_vec()
    }

    fn opened(mut apdu: Vec<u8>) -> Result<Vec<u8>, WireError> {
        let header = Ciphered::peek(&apdu)?;
        let title = header.title.unwrap();
        header.open(&mut apdu, title, KEYS).map(|plain| plain.to_vec())
    }

    fn opened_unauthenticated(mut apdu: Vec<u8>) -> Result<Vec<u8>, WireError> {
        let header = Ciphered::peek(&apdu)?;
        let title = header.title.unwrap();
        header.open_unauthenticated(&mut apdu, title, KEYS).map(|plain| plain.to_vec())
    }

    /// Green Book, GET of the clock's time, glo-get-request (also in dlms-cosem's test_security).
    #[test]
    fn green_book_get_request() {
        let plain = [0xC0, 1, 0, 0, 8, 0, 0, 1, 0, 0, 0xFF, 2, 0];
        let apdu = sealed(SecurityControl::BOTH, &plain);
        let head = [
            0xDB, 8, 0x4D, 0x4D, 0x4D, 0x00, 0x00, 0xBC, 0x61, 0x4E, 0x1E, 0x30, 0x01, 0x23, 0x45,
            0x67,
        ];
        let content = [
            0x41, 0x13, 0x12, 0xFF, 0x93, 0x5A, 0x47, 0x56, 0x68, 0x27, 0xC4, 0x67, 0xBC, 0x7D,
            0x82, 0x5C, 0x3B, 0xE4, 0xA7, 0x7C, 0x3F, 0xCC, 0x05, 0x6B, 0x6B,
        ];
        assert_eq!(apdu, [&head[..], &content].concat());
        assert_eq!(opened(apdu), Ok(plain.to_vec()));
    }

    /// Green Book, answer to the challenge `P6wRJ21F`.
    #[test]
    fn green_book_gmac() {
        let title = [0x4D, 0x4D, 0x4D, 0, 0, 0, 0, 1];
        assert_eq!(
            hls_gmac(title, 1, KEYS, b"P6wRJ21F"),
            [0x1A, 0x52, 0xFE, 0x7D, 0xD3, 0xE7, 0x27, 0x48, 0x97, 0x3C, 0x1E, 0x28]
        );
    }

    #[test]
    fn glo_has_no_title() {
        let plain = [0xC4, 1, 0xC1, 0, 0x16, 3];
        let sealing = Sealing {
            control: SecurityControl::BOTH,
            title: TITLE,
            invocation_counter: 9,
            keys: KEYS,
        };
        let mut buf = [0; 64];
        let mut writer = Writer::new(&mut buf);
        sealing.glo(0xCC, &plain, &mut writer).unwrap();
        let apdu = writer.written();
        let header = Ciphered::peek(apdu).unwrap();
        assert_eq!((header.tag, header.title, header.invocation_counter), (0xCC, None, 9));
        assert_eq!(header.open(apdu, TITLE, KEYS).unwrap(), plain);
        assert!(sealing.glo(0xC4, &plain, &mut Writer::new(&mut [0; 64])).is_err());
    }

    fn check(apdu: &[u8], want: Fault) {
        let got = Ciphered::peek(apdu).map_err(|e| e.fault);
        assert_eq!(got, Err(want), "apdu={apdu:02x?}");
    }

    #[test]
    fn broken_headers() {
        let good = sealed(SecurityControl::BOTH, &[0x0F; 20]);
        check(&good[..good.len() - 1], Fault::Truncated { missing: 1 });
        check(&[&good[..], &[0]].concat(), Fault::Trailing { count: 1 });
        check(&good[..12], Fault::Truncated { missing: 4 });
        let with = |position: usize, byte: u8| {
            let mut broken = good.clone();
            broken[position] = byte;
            broken
        };
        check(&with(0, 0xC4), Fault::Apdu(0xC4));
        check(&with(1, 7), Fault::SystemTitle(7));
        check(&with(1, 0), Fault::SystemTitle(0));
        check(&with(10, 16), Fault::Length(16));
        check(&with(10, 4), Fault::Length(4));
        check(&with(10, 0x80), Fault::LengthCoding(0x80));
        check(&[0xDB, 8, 1, 2, 3], Fault::Truncated { missing: 5 });
    }

    #[test]
    fn suites_and_options_not_spoken_are_refused() {
        for control in [0x00, 0x31, 0x32, 0x70, 0xB0, 0xFF] {
            let mut apdu = sealed(SecurityControl::BOTH, &[0x0F; 20]);
            apdu[11] = control;
            let want = WireError::new(Fault::SecurityControl(control), 11);
            assert_eq!(opened(apdu), Err(want), "control={control:#x}");
            let sealing = Sealing {
                control: SecurityControl(control),
                title: TITLE,
                invocation_counter: 1,
                keys: KEYS,
            };
            assert!(sealing.general_glo(&[1], &mut Writer::new(&mut [0; 64])).is_err());
        }
    }

    #[test]
    fn a_wrong_key_leaves_the_frame_as_it_was() {
        let apdu = sealed(SecurityControl::BOTH, &[0x0F; 20]);
        let mut copy = apdu.clone();
        let header = Ciphered::peek(&copy).unwrap();
        let other = Keys { encryption: &AUTHENTICATION, authentication: &AUTHENTICATION };
        let error = header.open(&mut copy, TITLE, other).unwrap_err();
        assert_eq!(error, WireError::new(Fault::Authentication, 16));
        assert_eq!(copy, apdu);
        assert_eq!(format!("{KEYS:?}"), "Keys(***)");
    }

    /// Whoever clears the authentication bit must not get in by it.
    #[test]
    fn no_downgrade() {
        let mut apdu = sealed(SecurityControl::BOTH, &[0x0F; 20]);
        apdu[11] = 0x20;
        let refused = |control| Err(WireError::new(Fault::SecurityControl(control), 11));
        assert_eq!(opened(apdu), refused(0x20));
        let both = sealed(SecurityControl::BOTH, &[0x0F; 20]);
        assert_eq!(opened_unauthenticated(both), refused(0x30));
    }

    proptest! {
        #[test]
        fn round_trip(plain in proptest::collection::vec(any::<u8>(), 0..300)) {
            let both = sealed(SecurityControl::BOTH, &plain);
            prop_assert_eq!(opened(both), Ok(plain.clone()));
            let authenticated = sealed(SecurityControl::AUTHENTICATED, &plain);
            prop_assert_eq!(opened(authenticated), Ok(plain.clone()));
            let encrypted = sealed(SecurityControl::ENCRYPTED, &plain);
            prop_assert_eq!(opened_unauthenticated(encrypted), Ok(plain));
        }

        /// Every bit of an authenticated frame counts but the tag's (general-glo and general-ded
        /// differ in whose key it is).
        #[test]
        fn a_flipped_bit_is_refused(bit in 8usize..(16 + 20 + 12) * 8, both: bool) {
            let control =
                if both { SecurityControl::BOTH } else { SecurityControl::AUTHENTICATED };
            let mut apdu = sealed(control, &[0x0F; 20]);
            apdu[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(opened(apdu).is_err());
        }

        #[test]
        fn any_bytes_are_an_answer(bytes: Vec<u8>) {
            let cut = Ciphered::peek_cut(&bytes);
            if let Ok(header) = Ciphered::peek(&bytes) {
                prop_assert_eq!(cut, Ok(header));
                prop_assert!(header.open(&mut bytes.clone(), TITLE, KEYS).is_err());
            }
        }
    }
}
