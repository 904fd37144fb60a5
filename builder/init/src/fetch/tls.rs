//! TLS, where the program is built with it: ring's algorithms, and only the certificates that the initrd brings.

#[cfg(feature = "tls")]
pub(super) use with::*;
#[cfg(not(feature = "tls"))]
pub(super) use without::*;

#[cfg(feature = "tls")]
mod with {
    use std::fs;
    use std::sync::Arc;

    use ureq::config::ConfigBuilder;
    use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};
    use ureq::typestate::AgentScope;
    use ureq::unversioned::transport::{Connector, RustlsConnector, TcpConnector};

    use crate::config::CA;
    use crate::warning;

    pub(in crate::fetch) fn connector() -> impl Connector {
        ().chain(TcpConnector::default()).chain(RustlsConnector::default())
    }

    pub(in crate::fetch) fn configure(config: ConfigBuilder<AgentScope>) -> ConfigBuilder<AgentScope> {
        let pem = fs::read(CA).unwrap_or_else(|e| {
            warning!("{CA}: {e}: no https:// server will be believed");
            Vec::new()
        });
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .root_certs(RootCerts::new_with_certs(&certificates(&pem)))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()));
        config.tls_config(tls.build())
    }

    fn certificates(pem: &[u8]) -> Vec<Certificate<'static>> {
        let items = parse_pem(pem).filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            Ok(_) => None,
            Err(e) => {
                warning!("{CA}: {e}");
                None
            }
        });
        items.collect()
    }

    /// Whether an error is about who the server is and how it speaks, rather than about the way to it.
    pub(in crate::fetch) fn is_of_tls(error: &ureq::Error) -> bool {
        match error {
            ureq::Error::Tls(_) | ureq::Error::Pem(_) | ureq::Error::Rustls(_) => true,
            ureq::Error::Io(e) => e.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()),
            _ => false,
        }
    }

    pub(in crate::fetch) fn words(error: &ureq::Error) -> String {
        match error {
            ureq::Error::Rustls(e) => e.to_string(),
            ureq::Error::Io(e) => e.to_string(),
            other => other.to_string(),
        }
    }
}

#[cfg(not(feature = "tls"))]
mod without {
    use ureq::config::ConfigBuilder;
    use ureq::typestate::AgentScope;
    use ureq::unversioned::transport::{Connector, TcpConnector};

    pub(in crate::fetch) fn connector() -> impl Connector {
        ().chain(TcpConnector::default())
    }

    pub(in crate::fetch) fn configure(config: ConfigBuilder<AgentScope>) -> ConfigBuilder<AgentScope> {
        config
    }

    pub(in crate::fetch) fn is_of_tls(_: &ureq::Error) -> bool {
        false
    }

    pub(in crate::fetch) fn words(error: &ureq::Error) -> String {
        error.to_string()
    }
}
