//! The one TLS provider of the process.

use anyhow::bail;
use rustls::crypto::aws_lc_rs;

/// Makes aws-lc-rs the process's TLS provider. Call it first in `main`: with two candidates compiled in, rustls panics at the
/// first configuration that has to choose by itself.
pub fn install_crypto() -> anyhow::Result<()> {
    if aws_lc_rs::default_provider().install_default().is_err() {
        bail!("another TLS provider is installed already");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_once() {
        super::install_crypto().unwrap();
        let error = super::install_crypto().unwrap_err();
        assert_eq!(error.to_string(), "another TLS provider is installed already");
    }
}
