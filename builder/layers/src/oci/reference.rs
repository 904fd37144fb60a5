//! From what a recipe names to what a registry is asked for.

use std::net::{IpAddr, Ipv6Addr};

use imgbuild_recipe::{DEFAULT_TAG, RegistryRef};
use oci_client::Reference;

/// The reference as the client library has it: by digest if there is one.
pub(crate) fn to_reference(named: &RegistryRef) -> Reference {
    let (registry, repository) = (named.registry.clone(), named.repository.clone());
    match &named.digest {
        Some(digest) => Reference::with_digest(registry, repository, digest.clone()),
        None => {
            let tag = named.tag.clone().unwrap_or_else(|| DEFAULT_TAG.to_owned());
            Reference::with_tag(registry, repository, tag)
        }
    }
}

/// Whether a registry (`HOST[:PORT]`) is this machine, where plain HTTP gives nothing away.
pub(crate) fn is_loopback(registry: &str) -> bool {
    if let Some(rest) = registry.strip_prefix('[') {
        let address = rest.split_once(']').map_or(rest, |(address, _)| address);
        return address.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback());
    }
    let host = registry.split_once(':').map_or(registry, |(host, _)| host);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use imgbuild_recipe::OciSource;

    use super::*;

    #[test]
    fn references_keep_host_port_and_name() {
        const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        for (text, whole, host) in [
            ("debian", "docker.io/library/debian:latest", "index.docker.io"),
            ("registry.example.com/os/worker:12", "registry.example.com/os/worker:12", "registry.example.com"),
            ("localhost:5000/x:1", "localhost:5000/x:1", "localhost:5000"),
            ("[::1]:5000/x/y:1", "[::1]:5000/x/y:1", "[::1]:5000"),
            (&format!("h.io/x:1@{DIGEST}"), &format!("h.io/x@{DIGEST}"), "h.io"),
        ] {
            let OciSource::Registry(named) = OciSource::parse(text, Path::new("/")).unwrap() else { panic!("{text}") };
            let reference = to_reference(&named);
            assert_eq!((reference.to_string().as_str(), reference.resolve_registry()), (whole, host), "{text}");
        }
    }

    #[test]
    fn loopback() {
        for here in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.8.9.1", "[::1]:80", "[::1]"] {
            assert!(is_loopback(here), "{here}");
        }
        for elsewhere in ["localhost.example.com", "10.0.0.1:5000", "[fd00::1]:80", "registry", "128.0.0.1"] {
            assert!(!is_loopback(elsewhere), "{elsewhere}");
        }
    }
}
