//! A TLS handshake in memory, for tests.

use std::sync::Arc;

use rustls::{
    ClientConnection, ConnectionCommon, Error, RootCertStore, ServerConfig, ServerConnection, SideData,
    pki_types::{CertificateDer, pem::PemObject as _},
};

/// Who is trusted by somebody who was given this PEM.
pub(super) fn roots(bundle_pem: &str) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle_pem.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    roots
}

/// A whole handshake; the protocol that was agreed on.
pub(super) fn shake(server: Arc<ServerConfig>, mut client: ClientConnection) -> Result<Option<Vec<u8>>, Error> {
    let mut server = ServerConnection::new(server).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        carry(&mut client, &mut server)?;
        carry(&mut server, &mut client)?;
    }
    Ok(client.alpn_protocol().map(<[u8]>::to_vec))
}

/// Brings to one side all that the other has to say.
fn carry<F: SideData, T: SideData>(from: &mut ConnectionCommon<F>, to: &mut ConnectionCommon<T>) -> Result<(), Error> {
    let mut wire = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut wire).unwrap();
    }
    let mut read = wire.as_slice();
    while !read.is_empty() {
        to.read_tls(&mut read).unwrap();
        to.process_new_packets()?;
    }
    Ok(())
}
