//! Zip archives, turned into tars so that there is one way to read archives.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use zip::read::ZipFile;
use zip::result::ZipError;
use zip::{System, ZipArchive};

use super::ArchiveError;

const TYPE_BITS: u32 = 0o170_000;
const SYMLINK: u32 = 0o120_000;
/// The longest target a symbolic link can have, in bytes.
const MAX_TARGET: u64 = 4096;

/// Writes what a zip archive holds as a tar: files, folders and symbolic links, with their Unix modes where it has them
/// (else 0644 and 0755), `root:root`, and time 0, since zip's times lack a zone.
pub(super) fn to_tar(path: &Path, into: impl Write) -> Result<(), ArchiveError> {
    let broken = |reason: String| ArchiveError::Zip { path: path.to_path_buf(), reason };
    let file = File::open(path).map_err(|source| ArchiveError::Io { path: path.to_path_buf(), source })?;
    let mut zip = ZipArchive::new(BufReader::new(file)).map_err(|e| broken(words(&e)))?;
    let mut tar = tar::Builder::new(into);
    for i in 0..zip.len() {
        let mut member = zip.by_index(i).map_err(|e| broken(words(&e)))?;
        let name = String::from_utf8_lossy(member.name_raw()).into_owned();
        append(&mut tar, &mut member).map_err(|e| match e.raw_os_error() {
            Some(_) => ArchiveError::Unpack { path: path.to_path_buf(), source: e },
            None => broken(format!("{name}: {e}")),
        })?;
    }
    tar.into_inner()
        .and_then(|mut into| into.flush())
        .map_err(|source| ArchiveError::Unpack { path: path.to_path_buf(), source })
}

fn words(error: &ZipError) -> String {
    match error {
        ZipError::Io(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            "the zip archive is cut short; fetch it again".to_owned()
        }
        e => format!("broken zip archive: {e}"),
    }
}

fn append<R: Read>(tar: &mut tar::Builder<impl Write>, member: &mut ZipFile<'_, R>) -> io::Result<()> {
    let refuse = |reason: &str| Err(io::Error::new(io::ErrorKind::InvalidData, reason.to_owned()));
    let name = member.name_raw().to_vec();
    if name.contains(&b'\\') {
        return refuse("a backslash in a path; repack the archive with / between folders");
    }
    if name.split(|b| *b == b'/').any(|component| component == b"..") {
        return refuse("the path must stay inside the root, without any \"..\"");
    }
    let name = name.iter().position(|b| *b != b'/').map_or(&b"./"[..], |start| &name[start..]);
    // What other systems leave there is made up from a read-only bit.
    let unix = if matches!(member.system(), System::Unix | System::OsDarwin) { member.unix_mode() } else { None };
    let directory = member.is_dir();
    let mut header = tar::Header::new_gnu();
    header.set_mode(unix.map_or(if directory { 0o755 } else { 0o644 }, |mode| mode & 0o7777));
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    let path: &Path = Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name));
    match unix.map(|mode| mode & TYPE_BITS) {
        _ if directory => {
            header.set_entry_type(tar::EntryType::Directory);
            tar.append_data(&mut header, path, io::empty())
        }
        Some(SYMLINK) => {
            let mut target = Vec::new();
            member.by_ref().take(MAX_TARGET + 1).read_to_end(&mut target)?;
            if target.len() as u64 > MAX_TARGET {
                return refuse("the target of the symbolic link is too long");
            }
            header.set_entry_type(tar::EntryType::Symlink);
            let target = Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&target));
            tar.append_link(&mut header, path, target)
        }
        // Regular, or made where there are no Unix modes.
        None | Some(0 | 0o100_000) => {
            header.set_entry_type(tar::EntryType::Regular);
            header.set_size(member.size());
            let size = member.size();
            // A member that is shorter or longer than the directory says would shift all that follows.
            let mut content = member.take(size.saturating_add(1));
            let mut counted = Counted { inner: &mut content, count: 0 };
            tar.append_data(&mut header, path, &mut counted)?;
            if counted.count != size {
                return refuse("its length is not what the archive says");
            }
            Ok(())
        }
        Some(_) => refuse("neither a file nor a folder nor a symbolic link"),
    }
}

struct Counted<R> {
    inner: R,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buf)?;
        self.count += read as u64;
        Ok(read)
    }
}
