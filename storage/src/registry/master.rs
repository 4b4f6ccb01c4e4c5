//! The master key and what it seals. Device keys lie in the registry as
//! `nonce 12 | ciphertext 32 | tag 16` (AES-256-GCM), bound to the device's kind and system title,
//! so that a sealed pair copied to another row does not open.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use aes_gcm::aead::{Aead as _, Generate as _, KeyInit as _, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use meter::SystemTitle;
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize as _, ZeroizeOnDrop, Zeroizing};

use super::MasterKeyError;

/// The two keys of a meter or gateway.
#[derive(Clone, Eq, PartialEq, ZeroizeOnDrop)]
pub struct DeviceKeys {
    /// Encryption key (EK).
    pub encryption: [u8; 16],
    /// Authentication key (AK).
    pub authentication: [u8; 16],
}

impl fmt::Debug for DeviceKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeviceKeys(***)")
    }
}

/// Whose keys they are: part of what the seal authenticates.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Owner {
    Meter(SystemTitle),
    Gateway(SystemTitle),
}

impl Owner {
    fn associated(self) -> [u8; 9] {
        let (kind, title) = match self {
            Self::Meter(title) => (1, title.0),
            Self::Gateway(title) => (2, title.0),
        };
        let mut bytes = [kind; 9];
        bytes[1..].copy_from_slice(&title);
        bytes
    }
}

/// The key under which device keys are sealed.
pub(super) struct MasterKey(Aes256Gcm);

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(***)")
    }
}

const NONCE_SIZE: usize = 12;
const CHECK_TEXT: &[u8] = b"meterd registry 1";

impl MasterKey {
    /// Reads the key file; makes it (mode 0600, synced) when `is_new`.
    pub(super) fn load(path: &Path, is_new: bool) -> Result<Self, MasterKeyError> {
        let fail = |source| MasterKeyError::File { path: path.to_owned(), source };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound && is_new => {
                return Self::create(path).map_err(fail);
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(MasterKeyError::Missing { path: path.to_owned() });
            }
            Err(error) => return Err(fail(error)),
        };
        let mode = file.metadata().map_err(fail)?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(MasterKeyError::Open { path: path.to_owned() });
        }
        // A key file is 65 bytes; more is not read.
        let mut text = Zeroizing::new(String::new());
        let not_text = || MasterKeyError::Text { path: path.to_owned() };
        (&file).take(256).read_to_string(&mut text).map_err(|_| not_text())?;
        let mut key = parse_hex::<32>(text.trim()).ok_or_else(not_text)?;
        let cipher = Aes256Gcm::new(&key.into());
        key.zeroize();
        Ok(Self(cipher))
    }

    fn create(path: &Path) -> std::io::Result<Self> {
        let key = Zeroizing::new(<[u8; 32]>::generate());
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let text = Zeroizing::new(format!("{}\n", hex(&*key)));
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            File::open(folder)?.sync_all()?;
        }
        Ok(Self(Aes256Gcm::new(&(*key).into())))
    }

    /// Seals a device's keys.
    pub(super) fn seal(&self, owner: Owner, keys: &DeviceKeys) -> Vec<u8> {
        let mut plain = Zeroizing::new([0; 32]);
        plain[..16].copy_from_slice(&keys.encryption);
        plain[16..].copy_from_slice(&keys.authentication);
        self.seal_bytes(&owner.associated(), &*plain)
    }

    /// Opens a device's keys; `None` when they are damaged or another device's.
    pub(super) fn open(&self, owner: Owner, sealed: &[u8]) -> Option<DeviceKeys> {
        let plain = Zeroizing::new(self.open_bytes(&owner.associated(), sealed)?);
        let (encryption, authentication) = plain.split_first_chunk::<16>()?;
        let authentication = authentication.try_into().ok()?;
        Some(DeviceKeys { encryption: *encryption, authentication })
    }

    /// A sealed constant, to tell a wrong key at start.
    pub(super) fn seal_check(&self) -> Vec<u8> {
        self.seal_bytes(b"check", CHECK_TEXT)
    }

    /// Whether `sealed` was made by [`MasterKey::seal_check`] under this key.
    pub(super) fn fits(&self, sealed: &[u8]) -> bool {
        self.open_bytes(b"check", sealed).is_some_and(|plain| plain == CHECK_TEXT)
    }

    /// A key of its own for vending keys: what the cipher makes of zeros under the nonce that no
    /// seal uses (nonces of seals are random).
    pub(super) fn vending(&self) -> Zeroizing<[u8; 32]> {
        let payload = Payload { msg: &[0; 32], aad: b"vending keys 1" };
        let stream = self.0.encrypt(&[0; NONCE_SIZE].into(), payload);
        let stream = Zeroizing::new(stream.expect("32 bytes are within the limits of GCM"));
        Zeroizing::new(Sha256::digest(&*stream).into())
    }

    fn seal_bytes(&self, aad: &[u8], msg: &[u8]) -> Vec<u8> {
        let nonce = Nonce::generate();
        let sealed = self.0.encrypt(&nonce, Payload { msg, aad });
        let sealed = sealed.expect("a short text is within the limits of GCM");
        [nonce.as_slice(), &sealed].concat()
    }

    fn open_bytes(&self, aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, msg) = sealed.split_first_chunk::<NONCE_SIZE>()?;
        self.0.decrypt(&(*nonce).into(), Payload { msg, aad }).ok()
    }
}

/// Bytes as upper-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02X}").expect("a String takes all");
        text
    })
}

/// Reads exactly `N` bytes of hexadecimal digits.
#[must_use]
pub fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != N * 2 {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = u8::try_from(digit(0)? * 16 + digit(1)?).ok()?;
    }
    Some(bytes)
}

/// Random bytes for the challenge to a device.
#[must_use]
pub fn fresh_challenge() -> [u8; 16] {
    <[u8; 16]>::generate()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: DeviceKeys = DeviceKeys { encryption: [1; 16], authentication: [2; 16] };

    fn made() -> (tempfile::TempDir, MasterKey) {
        let folder = tempfile::tempdir().unwrap();
        let key = MasterKey::load(&folder.path().join("master.key"), true).unwrap();
        (folder, key)
    }

    #[test]
    fn sealed_keys_open_for_their_owner_only() {
        let (_folder, master) = made();
        let owner = Owner::Meter(SystemTitle(*b"MTR00001"));
        let sealed = master.seal(owner, &KEYS);
        assert_eq!(sealed.len(), 60);
        assert_eq!(master.open(owner, &sealed), Some(KEYS));
        assert_eq!(master.open(Owner::Gateway(SystemTitle(*b"MTR00001")), &sealed), None);
        assert_eq!(master.open(Owner::Meter(SystemTitle(*b"MTR00002")), &sealed), None);
        for position in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[position] ^= 1;
            assert_eq!(master.open(owner, &bad), None, "flip at {position}");
            assert_eq!(master.open(owner, &sealed[..position]), None, "cut at {position}");
        }
    }

    #[test]
    fn the_file_is_private_and_read_again() {
        let (folder, master) = made();
        let path = folder.path().join("master.key");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(MasterKey::load(&path, false).unwrap().fits(&master.seal_check()));
        let other = MasterKey::load(&folder.path().join("other.key"), true).unwrap();
        assert!(!other.fits(&master.seal_check()));
    }

    #[test]
    fn unusable_files_are_told_apart() {
        let (folder, _) = made();
        let path = folder.path().join("master.key");
        let load = |path: &Path| MasterKey::load(path, false).unwrap_err().to_string();
        assert!(load(&folder.path().join("absent.key")).contains("is missing"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(load(&path).contains("chmod 600"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, "0011").unwrap();
        assert!(load(&path).contains("64 hexadecimal digits"));
    }

    #[test]
    fn hexadecimal_both_ways() {
        assert_eq!(parse_hex::<2>("0aFf"), Some([0x0A, 0xFF]));
        for bad in ["", "0aF", "0aFf0", "0gff", "+1ff", "é12"] {
            assert_eq!(parse_hex::<2>(bad), None, "{bad:?}");
        }
        assert_eq!(hex(&[0x0A, 0xFF]), "0AFF");
    }
}
