//! Package archives: pool, lists, and a signed index, as `apt-ftparchive` and `reprepro` lay them out.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::support::hex;

/// A key that archives are signed with.
pub(crate) struct Key {
    home: tempfile::TempDir,
}

impl Key {
    pub(crate) fn new() -> Self {
        let key = Self { home: tempfile::tempdir().unwrap() };
        done(key.gpg().args(["--passphrase", "", "--quick-gen-key", "imgbuild test", "ed25519", "sign", "never"]));
        key
    }

    fn gpg(&self) -> Command {
        let mut gpg = Command::new("gpg");
        gpg.arg("--homedir").arg(self.home.path()).args(["--batch", "--quiet", "--no-permission-warning"]);
        gpg
    }

    pub(crate) fn export(&self, file: &Path) {
        done(self.gpg().args(["--armor", "--output"]).arg(file).arg("--export"));
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        // gpg has started it, and it would stay.
        let _ = Command::new("gpgconf").arg("--homedir").arg(self.home.path()).args(["--kill", "gpg-agent"]).status();
    }
}

/// An archive in a folder.
pub(crate) struct Archive {
    root: PathBuf,
}

impl Archive {
    pub(crate) fn new(root: PathBuf) -> Self {
        fs::create_dir_all(root.join("pool")).unwrap();
        Self { root }
    }

    /// With the packages that Debian 12 calls essential.
    pub(crate) fn of_debian(root: PathBuf) -> Self {
        let archive = Self::new(root);
        for package in fs::read_dir(essential()).unwrap() {
            let package = package.unwrap();
            fs::copy(package.path(), archive.root.join("pool").join(package.file_name())).unwrap();
        }
        archive
    }

    /// As `sources.list` names it: apt copies the files, so that no server is needed.
    pub(crate) fn uri(&self) -> String {
        format!("copy:{}", self.root.display())
    }

    /// Where `site-tool` of a version lies.
    pub(crate) fn tool(&self, version: &str) -> PathBuf {
        self.root.join(format!("pool/site-tool_{version}_all.deb"))
    }

    /// Adds `site-tool`: one file that holds the version.
    pub(crate) fn add_tool(&self, version: &str) {
        let work = tempfile::tempdir().unwrap();
        let path = |name: &str| work.path().join(name);
        fs::create_dir_all(path("DEBIAN")).unwrap();
        fs::create_dir_all(path("usr/share")).unwrap();
        let control = format!(
            "Package: site-tool\nVersion: {version}\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\n\
             Description: made by a test\n"
        );
        fs::write(path("DEBIAN/control"), control).unwrap();
        fs::write(path("usr/share/site-tool"), format!("{version}\n")).unwrap();
        let mut build = Command::new("dpkg-deb");
        build.args(["--root-owner-group", "--build"]).arg(work.path()).arg(self.tool(version));
        done(build.env("SOURCE_DATE_EPOCH", "1600000000").stdout(Stdio::null()));
    }

    pub(crate) fn remove_tool(&self, version: &str) {
        fs::remove_file(self.tool(version)).unwrap();
    }

    /// Writes lists and index of a suite. `until`: the index is good until then only, and was made just before.
    pub(crate) fn publish(&self, suite: &str, key: &Key, until: Option<&str>) {
        let dists = self.root.join("dists").join(suite);
        let binary = dists.join("main/binary-amd64");
        fs::create_dir_all(&binary).unwrap();
        let scan = Command::new("dpkg-scanpackages").args(["--multiversion", "pool"]).current_dir(&self.root).output();
        let packages = scan.unwrap().stdout;
        fs::write(binary.join("Packages"), &packages).unwrap();
        let mut release =
            format!("Origin: test\nSuite: {suite}\nCodename: {suite}\nArchitectures: amd64 all\nComponents: main\n");
        match until {
            Some(until) => {
                writeln!(release, "Date: Mon, 20 Oct 2025 00:00:00 UTC\nValid-Until: {until}").unwrap();
            }
            None => writeln!(release, "Date: {}", now()).unwrap(),
        }
        writeln!(release, "SHA256:\n {} {} main/binary-amd64/Packages", hex(&packages), packages.len()).unwrap();
        fs::write(dists.join("Release"), release).unwrap();
        let (from, to) = (dists.join("Release"), dists.join("InRelease"));
        done(key.gpg().args(["--yes", "--clearsign", "--output"]).arg(to).arg(from));
    }
}

fn now() -> String {
    let date = Command::new("date").args(["--utc", "+%a, %d %b %Y %H:%M:%S UTC"]).env("LC_ALL", "C").output().unwrap();
    String::from_utf8(date.stdout).unwrap().trim().to_owned()
}

fn done(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

/// A folder with Debian's essential packages and what they depend on.
fn essential() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut fetch = Command::new("mmdebstrap");
        fetch.args([
            "--quiet",
            "--variant=essential",
            "--architectures=amd64",
            "--skip=essential/unlink,cleanup/apt/cache",
        ]);
        fetch.arg(format!("--customize-hook=copy-out /var/cache/apt/archives {}", folder.path().display()));
        done(fetch.args(["bookworm", "/dev/null"]).env("TMPDIR", "/var/tmp"));
        folder
    });
    let archives = Box::leak(folder.path().join("archives").into_boxed_path());
    let packages = fs::read_dir(&archives).unwrap().flatten();
    for other in packages.filter(|item| item.path().extension().is_none_or(|kind| kind != "deb")) {
        let _ = fs::remove_file(other.path()).or_else(|_| fs::remove_dir_all(other.path()));
    }
    archives
}

/// An HTTP proxy that has these folders for all that begins with these URLs, and nothing else; its own URL.
pub(crate) fn proxy(folders: &[(&str, PathBuf)]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let folders: Vec<_> = folders.iter().map(|(url, folder)| ((*url).to_owned(), folder.clone())).collect();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let folders = folders.clone();
            std::thread::spawn(move || answer(&stream, &folders));
        }
    });
    url
}

/// Answers the requests of a connection, one after the other.
fn answer(mut stream: &TcpStream, folders: &[(String, PathBuf)]) {
    let mut lines = BufReader::new(stream).lines();
    while let Some(Ok(request)) = lines.next() {
        while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
        let asked =
            request.split(' ').nth(1).unwrap_or_default().replace("%2b", "+").replace("%7e", "~").replace("%25", "%");
        let found =
            folders.iter().find_map(|(url, folder)| fs::read(folder.join(asked.strip_prefix(url.as_str())?)).ok());
        let (status, body) = match found {
            Some(body) => ("200 OK", body),
            None => ("404 Not Found", Vec::new()),
        };
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
        if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body)).is_err() {
            return;
        }
    }
}
