//! HTTPS before a boot server, with certificates of an authority of its own.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use anyhow::Result;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::Server;
use crate::materials::run;

/// Who signs certificates.
#[derive(Debug)]
pub struct Authority {
    folder: tempfile::TempDir,
    /// Its certificate in PEM.
    pub pem: Vec<u8>,
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    ///
    /// Those of openssl.
    pub fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout"];
        openssl(
            folder.path(),
            &[&["req", "-x509", "-days", "30", "-subj", "/CN=site", "-out", "ca.pem"], &key, &["ca.key"]],
        )?;
        let pem = fs::read(folder.path().join("ca.pem"))?;
        Ok(Self { folder, pem })
    }

    fn certify(&self) -> Result<ServerConfig> {
        let folder = self.folder.path();
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout"];
        openssl(folder, &[&["req", "-subj", "/CN=boot", "-out", "csr.pem"], &key, &["key.pem"]])?;
        fs::write(folder.join("names"), "subjectAltName=IP:10.0.2.2\n")?;
        let sign = ["x509", "-req", "-in", "csr.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"];
        openssl(folder, &[&sign, &["-days", "30", "-extfile", "names", "-out", "cert.pem"]])?;
        let certificate = CertificateDer::from_pem_file(folder.join("cert.pem"))?;
        let key = PrivateKeyDer::from_pem_file(folder.join("key.pem"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        Ok(config.with_no_client_auth().with_single_cert(vec![certificate], key)?)
    }
}

fn openssl(folder: &Path, arguments: &[&[&str]]) -> Result<()> {
    run(Command::new("openssl").args(arguments.concat()), folder).map(drop)
}

/// A server that hands each connection's request on to another one.
#[derive(Debug)]
pub struct Https {
    port: u16,
}

impl Https {
    /// Starts one before `server`.
    ///
    /// # Errors
    ///
    /// Those of openssl and of listening.
    pub fn before(server: &Server, authority: &Authority) -> Result<Self> {
        let config = Arc::new(authority.certify()?);
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (port, behind) = (listener.local_addr()?.port(), server.port());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let config = Arc::clone(&config);
                thread::spawn(move || hand_on(stream, config, behind));
            }
        });
        Ok(Self { port })
    }

    /// The URL of a path as the guest sees it.
    #[must_use]
    pub fn at(&self, path: &str) -> String {
        format!("https://10.0.2.2:{}{path}", self.port)
    }
}

/// One request without a body. A client that goes away is its own affair.
fn hand_on(stream: TcpStream, config: Arc<ServerConfig>, behind: u16) -> Option<()> {
    let mut client = StreamOwned::new(ServerConnection::new(config).ok()?, stream);
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte).ok()?;
        request.extend(byte);
    }
    let mut server = TcpStream::connect(("127.0.0.1", behind)).ok()?;
    server.write_all(&request).ok()?;
    io::copy(&mut server, &mut client).ok()?;
    client.conn.send_close_notify();
    client.flush().ok()
}
