//! That both sides know a secret, shown without telling it.

use std::{fs::File, io::Read, path::Path};

use anyhow::{Context, ensure};
use aws_lc_rs::{
    hmac::{self, HMAC_SHA256, Key},
    rand,
};

/// Fewest bytes of a secret: less can be guessed.
const FEWEST: usize = 16;
/// Most bytes of the file.
const MOST: u64 = 4096;

/// A secret, if there is one.
#[derive(Debug, Clone)]
pub(super) struct Secret(Option<Key>);

impl Secret {
    /// Reads it; white space around it belongs to the editor.
    pub(super) fn read(file: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = file else { return Ok(Self(None)) };
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(MOST + 1).read_to_end(&mut bytes));
        read.with_context(|| format!("reading the secret in {}", path.display()))?;
        let secret = bytes.trim_ascii();
        ensure!(
            secret.len() >= FEWEST && bytes.len() as u64 <= MOST,
            "the secret in {} has {} bytes: give {FEWEST} to {MOST}, such as `openssl rand -hex 32` makes",
            path.display(),
            secret.len()
        );
        Ok(Self(Some(Key::new(HMAC_SHA256, secret))))
    }

    /// Whether there is one.
    pub(super) fn is_set(&self) -> bool {
        self.0.is_some()
    }

    /// A proof of it for these words, each told from the next.
    pub(super) fn proof(&self, words: &[&str]) -> Option<String> {
        self.0.as_ref().map(|key| hex(hmac::sign(key, &message(words)).as_ref()))
    }

    /// Whether a proof is one, in a time that does not depend on it. Without a secret, none is asked for.
    pub(super) fn proves(&self, words: &[&str], proof: Option<&str>) -> bool {
        let Some(key) = &self.0 else { return true };
        proof.and_then(unhex).is_some_and(|proof| hmac::verify(key, &message(words), &proof).is_ok())
    }
}

fn message(words: &[&str]) -> Vec<u8> {
    let mut message = Vec::new();
    for word in words {
        message.extend_from_slice(&(word.len() as u64).to_le_bytes());
        message.extend_from_slice(word.as_bytes());
    }
    message
}

/// `N` random bytes in hexadecimal digits.
pub(super) fn random<const N: usize>() -> anyhow::Result<String> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).ok().context("the kernel gave no random bytes")?;
    Ok(hex(&bytes))
}

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn proves_itself_and_nothing_else() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, "  0123456789abcdef\n").unwrap();
        let secret = Secret::read(Some(file.path())).unwrap();
        let proof = secret.proof(&["client", "1", "23"]);
        assert!(secret.proves(&["client", "1", "23"], proof.as_deref()));
        for (words, proof) in [
            (["client", "12", "3"], proof.as_deref()),
            (["server", "1", "23"], proof.as_deref()),
            (["client", "1", "23"], None),
            (["client", "1", "23"], Some("")),
            (["client", "1", "23"], Some("+1")),
            (["client", "1", "23"], Some("zz")),
        ] {
            assert!(!secret.proves(&words, proof), "{words:?} {proof:?}");
        }
        fs::write(&file, "0123456789abcdeX").unwrap();
        assert!(!Secret::read(Some(file.path())).unwrap().proves(&["client", "1", "23"], proof.as_deref()));
        fs::write(&file, "short\n").unwrap();
        assert!(Secret::read(Some(file.path())).unwrap_err().to_string().contains("has 5 bytes: give 16 to 4096"));
        assert!(Secret::read(None).unwrap().proves(&[], None));
        assert_ne!(random::<32>().unwrap(), random::<32>().unwrap());
    }
}
